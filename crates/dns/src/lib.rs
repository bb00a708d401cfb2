//! Names: DNS for the services of this cluster (`*.svc.cluster.local`) and of the cluster set
//! (`*.svc.clusterset.local`).
//!
//! [`zone`] is pure: model events in, answers out. [`wire`] is the message format (RFC 1035, 2782, 6891), [`forward`]
//! asks others for what is not ours, and [`server`] owns the sockets. Nothing here knows Kubernetes' API.
//!
//! The message format is written here because of what else a library would decide: this server must bound the work that
//! datagrams and connections make, and pass on answers of other servers byte for byte.

pub mod forward;
mod limits;
mod name;
mod record;
pub mod server;
pub mod wire;
pub mod zone;

pub use name::Name;
pub use record::{Record, RecordData, Soa};

use std::net::SocketAddr;

/// What can go wrong; the text names the thing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Text that is no domain name.
    #[error("{name:?} is no domain name: {rule}")]
    Name {
        /// The text.
        name: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// A socket cannot be opened.
    #[error(
        "cannot serve DNS on {address}: {source}; is another server there, or the right to use this port missing?"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
}
