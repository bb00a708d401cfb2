//! Flows and translations as people read them.

use std::net::SocketAddr;

use serde::Serialize;

use super::Conntrack;
use crate::Error;
use crate::maps::flow::{
    CtEntry, DSR, FLOW_IN, FLOW_SERVICE, LOOPBACK, NODE_PORT, NatEntry, ORIGIN_CLOSING, REPLY_CLOSING,
    SEEN_NON_SYN, Tuple, now, seconds_left,
};

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A flow a pod of this node has begun, to the backend.
    Out,
    /// A flow that reaches a pod or process of this node, as the backend.
    In,
    /// A client's flow to a frontend, before translation.
    Service,
}

/// One flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FlowEntry {
    /// What the entry is about.
    pub kind: Kind,
    /// Number of the protocol.
    pub protocol: u8,
    /// Who has begun it.
    pub source: SocketAddr,
    /// Where its packets go.
    pub destination: SocketAddr,
    /// Of a service's flow the backend; of others the frontend the client believes to talk to.
    pub other: SocketAddr,
    /// The port of this node it goes out by, where it does; 0 = it does not.
    pub nat_port: u16,
    /// Seconds until it is over; not positive: it is.
    pub seconds_left: i64,
    /// What has been seen, like `non-syn`.
    pub seen: Vec<&'static str>,
    /// Number of the service; 0 = not known here.
    pub service: u32,
    /// Identity of who has begun it; 0 = not known here.
    pub identity: u32,
}

/// One flow under source NAT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NatFlow {
    /// Number of the protocol.
    pub protocol: u8,
    /// The client.
    pub client: SocketAddr,
    /// The frontend it believes to talk to.
    pub frontend: SocketAddr,
    /// What the backend sees as the client.
    pub source: SocketAddr,
    /// The backend.
    pub backend: SocketAddr,
    /// Seconds until it is over, were the client silent.
    pub seconds_left: i64,
}

impl Conntrack {
    /// All flows, sorted.
    ///
    /// # Errors
    /// [`Error::Map`]
    pub fn list(&self) -> Result<Vec<FlowEntry>, Error> {
        let now = now();
        let mut all: Vec<_> = self.flows()?.iter().map(|(tuple, entry)| flow(tuple, entry, now)).collect();
        all.sort_by_key(|e| (e.protocol, e.source, e.destination, e.kind));
        Ok(all)
    }

    /// All flows under source NAT, sorted.
    ///
    /// # Errors
    /// [`Error::Map`]
    pub fn list_nat(&self) -> Result<Vec<NatFlow>, Error> {
        let now = now();
        let mut all: Vec<_> =
            self.translations()?.iter().map(|(reply, entry)| translation(reply, entry, now)).collect();
        all.sort_by_key(|e| (e.protocol, e.client, e.frontend, e.backend));
        Ok(all)
    }
}

fn flow(tuple: &Tuple, entry: &CtEntry, now: u32) -> FlowEntry {
    let words = [
        (SEEN_NON_SYN, "non-syn"),
        (ORIGIN_CLOSING, "origin-closing"),
        (REPLY_CLOSING, "reply-closing"),
        (LOOPBACK, "loopback"),
        (NODE_PORT, "outside"),
        (DSR, "dsr"),
    ];
    FlowEntry {
        kind: match tuple.flags {
            FLOW_SERVICE => Kind::Service,
            FLOW_IN => Kind::In,
            _ => Kind::Out,
        },
        protocol: tuple.protocol,
        source: tuple.source(),
        destination: tuple.destination(),
        other: tuple.socket(entry.address, entry.port),
        nat_port: u16::from_be_bytes(entry.nat_port),
        seconds_left: seconds_left(entry.expires, now),
        seen: words.into_iter().filter(|(flag, _)| entry.flags & flag != 0).map(|(_, word)| word).collect(),
        service: entry.service,
        identity: entry.identity,
    }
}

fn translation(reply: &Tuple, entry: &NatEntry, now: u32) -> NatFlow {
    NatFlow {
        protocol: reply.protocol,
        client: reply.socket(entry.client, entry.client_port),
        frontend: reply.socket(entry.frontend, entry.frontend_port),
        source: reply.destination(),
        backend: reply.source(),
        seconds_left: seconds_left(entry.expires, now),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::maps::Address;

    #[test]
    fn entries_are_readable() {
        let ip = |text: &str| Address::from(text.parse::<IpAddr>().unwrap()).bytes;
        let tuple = Tuple {
            src: ip("192.0.2.9"),
            dst: ip("172.20.1.1"),
            sport: 40000u16.to_be_bytes(),
            dport: 30080u16.to_be_bytes(),
            family: 4,
            protocol: 6,
            flags: FLOW_SERVICE,
            pad: 0,
        };
        let entry = CtEntry {
            address: ip("10.1.0.5"),
            port: 8080u16.to_be_bytes(),
            flags: SEEN_NON_SYN | ORIGIN_CLOSING,
            expires: 1000 + 8 * 60,
            service: 7,
            identity: 0,
            origin_seen: 0x12,
            reply_seen: 0,
            nat_port: 1024u16.to_be_bytes(),
        };
        let seen = flow(&tuple, &entry, 1000);
        assert_eq!(seen.kind, Kind::Service);
        assert_eq!(seen.source.to_string(), "192.0.2.9:40000");
        assert_eq!(seen.other.to_string(), "10.1.0.5:8080");
        assert_eq!((seen.seconds_left, seen.nat_port), (64, 1024));
        assert_eq!(seen.seen, ["non-syn", "origin-closing"]);
    }
}
