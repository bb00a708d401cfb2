//! Resource records.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Name;
use crate::wire::RecordType;

/// One record; its class is always Internet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub name: Name,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// What it says.
    pub data: RecordData,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordData {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// The name is another name for this one.
    Cname(Name),
    /// The name an address stands for.
    Ptr(Name),
    /// Where a service is.
    Srv {
        /// Lower ones come first.
        priority: u16,
        /// The share among equals.
        weight: u16,
        /// The port.
        port: u16,
        /// The host.
        target: Name,
    },
    /// A text of at most 255 octets.
    Txt(String),
    /// The start of a zone.
    Soa(Soa),
    /// A type not known here, with its octets.
    Other(RecordType, Vec<u8>),
}

/// The start of a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Soa {
    /// The zone's first server.
    pub server: Name,
    /// A mailbox, its `@` written as a dot.
    pub contact: Name,
    /// Grows with every change.
    pub serial: u32,
    /// Seconds until a secondary server looks for changes, tries again, and gives up.
    pub times: [u32; 3],
    /// How long the absence of something may be kept, in seconds.
    pub negative_ttl: u32,
}

impl RecordData {
    /// The record of an address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(ip) => Self::A(ip),
            IpAddr::V6(ip) => Self::Aaaa(ip),
        }
    }

    /// Its type.
    pub fn kind(&self) -> RecordType {
        match self {
            Self::A(_) => RecordType::A,
            Self::Aaaa(_) => RecordType::AAAA,
            Self::Cname(_) => RecordType::CNAME,
            Self::Ptr(_) => RecordType::PTR,
            Self::Srv { .. } => RecordType::SRV,
            Self::Txt(_) => RecordType::TXT,
            Self::Soa(_) => RecordType::SOA,
            Self::Other(kind, _) => *kind,
        }
    }
}

impl fmt::Display for RecordData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::A(ip) => ip.fmt(f),
            Self::Aaaa(ip) => ip.fmt(f),
            Self::Cname(name) | Self::Ptr(name) => name.fmt(f),
            Self::Srv { priority, weight, port, target } => write!(f, "{priority} {weight} {port} {target}"),
            Self::Txt(text) => write!(f, "{text:?}"),
            Self::Soa(soa) => {
                let [refresh, retry, expire] = soa.times;
                write!(
                    f,
                    "{} {} {} {refresh} {retry} {expire} {}",
                    soa.server, soa.contact, soa.serial, soa.negative_ttl
                )
            }
            Self::Other(_, octets) => {
                // RFC 3597, 5
                write!(f, "\\# {}", octets.len())?;
                octets.iter().try_for_each(|octet| write!(f, " {octet:02x}"))
            }
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\t{}\tIN\t{}\t{}", self.name, self.ttl, self.data.kind(), self.data)
    }
}
