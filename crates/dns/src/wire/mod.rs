//! The format of messages (RFC 1035, 4; 2782; 6891): queries are read, replies written, replies of others read and passed
//! on. Everything read is untrusted: nothing here panics, and no loop is longer than the message.

mod message;
mod query;
mod reply;

pub use message::{Invalid, Message};
pub use query::{Edns, Query, Refused};
pub use reply::{Reply, truncated};

use std::fmt;

/// Octets of the header.
pub(crate) const HEADER: usize = 12;
/// The Internet.
pub(crate) const CLASS_IN: u16 = 1;
/// Size of datagrams we take and send: no network breaks them (DNS flag day 2020).
pub const PAYLOAD: u16 = 1232;
/// Size of datagrams for those who name none.
pub(crate) const SMALL_PAYLOAD: u16 = 512;

/// Bits of the header's second pair of octets.
pub(crate) mod flag {
    pub(crate) const RESPONSE: u16 = 1 << 15;
    pub(crate) const AUTHORITATIVE: u16 = 1 << 10;
    pub(crate) const TRUNCATED: u16 = 1 << 9;
    pub(crate) const RECURSION_DESIRED: u16 = 1 << 8;
    pub(crate) const RECURSION_AVAILABLE: u16 = 1 << 7;
    pub(crate) const CHECKING_DISABLED: u16 = 1 << 4;
}

/// A type of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordType(pub u16);

impl RecordType {
    /// An IPv4 address.
    pub const A: Self = Self(1);
    /// A name server.
    pub const NS: Self = Self(2);
    /// Another name.
    pub const CNAME: Self = Self(5);
    /// The start of a zone.
    pub const SOA: Self = Self(6);
    /// The name of an address.
    pub const PTR: Self = Self(12);
    /// Mail.
    pub const MX: Self = Self(15);
    /// Text.
    pub const TXT: Self = Self(16);
    /// An IPv6 address.
    pub const AAAA: Self = Self(28);
    /// Where a service is.
    pub const SRV: Self = Self(33);
    /// Options of the message (EDNS).
    pub const OPT: Self = Self(41);
    /// How to use a service.
    pub const HTTPS: Self = Self(65);

    const WORDS: [(Self, &str); 11] = [
        (Self::A, "A"),
        (Self::NS, "NS"),
        (Self::CNAME, "CNAME"),
        (Self::SOA, "SOA"),
        (Self::PTR, "PTR"),
        (Self::MX, "MX"),
        (Self::TXT, "TXT"),
        (Self::AAAA, "AAAA"),
        (Self::SRV, "SRV"),
        (Self::OPT, "OPT"),
        (Self::HTTPS, "HTTPS"),
    ];

    /// Its word, if it has one here.
    pub fn word(self) -> Option<&'static str> {
        Self::WORDS.iter().find(|(kind, _)| *kind == self).map(|(_, word)| *word)
    }

    /// Whether it asks for something else than records of one type (transfers, `ANY`, options).
    pub fn is_meta(self) -> bool {
        self.0 == 0 || self == Self::OPT || (128..=255).contains(&self.0)
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.word() {
            Some(word) => f.write_str(word),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

impl std::str::FromStr for RecordType {
    type Err = String;

    /// A word in any case, or `TYPE` and a number (RFC 3597).
    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        let known = Self::WORDS.iter().find(|(_, word)| *word == upper).map(|(kind, _)| *kind);
        let number = || upper.strip_prefix("TYPE")?.parse().ok().map(Self);
        known
            .or_else(number)
            .ok_or_else(|| format!("{text:?} is no type of records: A, AAAA, SRV, PTR, TYPE65, …"))
    }
}

/// What became of a query (RFC 1035, 4.1.1; 6891, 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rcode(pub u16);

impl Rcode {
    /// Answered.
    pub const NO_ERROR: Self = Self(0);
    /// The query cannot be understood.
    pub const FORMAT_ERROR: Self = Self(1);
    /// The server cannot answer now.
    pub const SERVER_FAILURE: Self = Self(2);
    /// There is no such name.
    pub const NX_DOMAIN: Self = Self(3);
    /// The server does not do this.
    pub const NOT_IMPLEMENTED: Self = Self(4);
    /// The server does not do this for the client.
    pub const REFUSED: Self = Self(5);
    /// The version of EDNS is not known.
    pub const BAD_VERSION: Self = Self(16);

    /// Its word; those without one are numbers.
    pub fn word(self) -> &'static str {
        match self {
            Self::NO_ERROR => "NOERROR",
            Self::FORMAT_ERROR => "FORMERR",
            Self::SERVER_FAILURE => "SERVFAIL",
            Self::NX_DOMAIN => "NXDOMAIN",
            Self::NOT_IMPLEMENTED => "NOTIMP",
            Self::REFUSED => "REFUSED",
            Self::BAD_VERSION => "BADVERS",
            _ => "other",
        }
    }
}

/// Two octets at a place.
pub(crate) fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// Four octets at a place.
pub(crate) fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(message.get(at..at.checked_add(4)?)?.try_into().ok()?))
}
