//! Sockets whose backend is gone. A connected UDP socket would send to it for ever; it is ended, and its
//! process connects again, to a backend that is there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use crate::Error;
use crate::maps::Table;
use crate::maps::lb::{Flow, L4};
use crate::netlink::diag::Diag;

/// Vanished backends by protocol and port: what the kernel lists sockets by.
type ByPort = BTreeMap<(u8, u16), BTreeSet<L4>>;

/// Ends the sockets of one network namespace that were translated to one of these backends; how many.
/// What connected to the same address without a service is left alone.
pub(crate) fn end(
    netns: Option<&Path>,
    vanished: &[L4],
    flows: &mut Table<Flow, L4>,
) -> Result<usize, Error> {
    let mut by_port = ByPort::new();
    for backend in vanished {
        let port = u16::from_be_bytes(backend.port);
        by_port.entry((backend.protocol, port)).or_default().insert(*backend);
    }
    crate::netlink::inside(netns, || {
        let failed = |e: io::Error| Error::io("end sockets of backends that are gone", e);
        let mut diag = Diag::open().map_err(failed)?;
        let mut ended = 0;
        for ((protocol, port), backends) in by_port {
            for socket in diag.connected(protocol, port).map_err(failed)? {
                let address = socket.peer().into();
                let backend = L4 { address, port: port.to_be_bytes(), protocol, scope: 0 };
                let flow = Flow { cookie: socket.cookie(), backend };
                if backends.contains(&backend) && flows.get(&flow)?.is_some() {
                    diag.destroy(socket).map_err(failed)?;
                    // A UDP socket no longer knows, when it is closed, whom it talked to.
                    flows.remove(&flow)?;
                    ended += 1;
                }
            }
        }
        Ok(ended)
    })
}
