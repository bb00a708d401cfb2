//! Domain names.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::Error;

/// Longest name on the wire, in octets (RFC 1035, 2.3.4).
const MAX_NAME: usize = 255;
/// Longest label, in octets.
const MAX_LABEL: usize = 63;

/// A domain name in lower case: names differ by more than case or are the same (RFC 1035, 2.3.3).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// As on the wire without compression: labels with their lengths before them, the root's 0 at the end.
    wire: Vec<u8>,
}

impl Name {
    /// The root.
    pub fn root() -> Self {
        Self { wire: vec![0] }
    }

    /// The name of these labels, the leftmost first; `None` if one is empty or too long, or all together are.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut wire = vec![];
        for label in labels {
            if label.is_empty() || label.len() > MAX_LABEL {
                return None;
            }
            wire.push(label.len() as u8);
            wire.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        wire.push(0);
        (wire.len() <= MAX_NAME).then_some(Self { wire })
    }

    /// The name with a label (or several, with dots) before it; `None` if that makes it no name.
    pub fn under(&self, prefix: &str) -> Option<Self> {
        Self::from_labels(prefix.split('.').map(str::as_bytes).chain(self.labels()))
    }

    /// The labels, the leftmost first.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.wire.as_slice();
        std::iter::from_fn(move || {
            let (&length, tail) = rest.split_first()?;
            let (label, tail) = tail.split_at_checked(usize::from(length))?;
            rest = tail;
            (!label.is_empty()).then_some(label)
        })
    }

    /// The labels before `zone`, the leftmost first; `None` if the name is not in the zone, or if one is no text.
    pub fn relative_to(&self, zone: &Name) -> Option<Vec<&str>> {
        let before = self.labels().count().checked_sub(zone.labels().count())?;
        if !self.labels().skip(before).eq(zone.labels()) {
            return None;
        }
        self.labels().take(before).map(|label| std::str::from_utf8(label).ok()).collect()
    }

    /// Whether the name is the zone's or beneath it.
    pub fn is_in(&self, zone: &Name) -> bool {
        let before = self.labels().count().checked_sub(zone.labels().count());
        before.is_some_and(|before| self.labels().skip(before).eq(zone.labels()))
    }

    /// The octets on the wire without compression.
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// The address of a name below `in-addr.arpa` or `ip6.arpa`.
    pub fn reverse_address(&self) -> Option<IpAddr> {
        let labels: Vec<&str> =
            self.labels().map(|label| std::str::from_utf8(label).ok()).collect::<Option<_>>()?;
        match labels.as_slice() {
            [d, c, b, a, "in-addr", "arpa"] => {
                let octet = |text: &&str| {
                    let value: u8 = text.parse().ok()?;
                    // Neither signs nor leading zeros: every address has one name.
                    (value.to_string() == **text).then_some(value)
                };
                Some(Ipv4Addr::new(octet(a)?, octet(b)?, octet(c)?, octet(d)?).into())
            }
            [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
                let mut bits = 0u128;
                for nibble in nibbles.iter().rev() {
                    if nibble.len() != 1 {
                        return None;
                    }
                    bits = bits << 4 | u128::from(u8::from_str_radix(nibble, 16).ok()?);
                }
                Some(Ipv6Addr::from(bits).into())
            }
            _ => None,
        }
    }

    /// The name below `in-addr.arpa` or `ip6.arpa` that stands for an address.
    pub fn of_address(address: IpAddr) -> Self {
        let text = match address {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa")
            }
            IpAddr::V6(ip) => {
                let nibbles = ip.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
                nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
            }
        };
        Self::from_labels(text.split('.').map(str::as_bytes)).unwrap_or_else(Self::root)
    }
}

impl FromStr for Name {
    type Err = Error;

    /// A name in text, with or without the dot at its end. Escapes are not known: names of services need none.
    fn from_str(text: &str) -> Result<Self, Error> {
        let error = |rule| Error::Name { name: text.to_owned(), rule };
        let bare = text.strip_suffix('.').unwrap_or(text);
        if text == "." {
            return Ok(Self::root());
        }
        if bare.split('.').any(|label| label.is_empty() || label.len() > MAX_LABEL) {
            return Err(error("labels have 1 to 63 characters"));
        }
        if bare.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err(error("labels have no blanks and no other than ASCII characters"));
        }
        Self::from_labels(bare.split('.').map(str::as_bytes))
            .ok_or_else(|| error("names have at most 253 characters"))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.wire == [0] {
            return f.write_str(".");
        }
        for label in self.labels() {
            for &octet in label {
                match octet {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(octet))?,
                    0x21..=0x7e => write!(f, "{}", char::from(octet))?,
                    // What a sender put into a label must not reach a terminal as it came.
                    _ => write!(f, "\\{octet:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_read_and_written() {
        assert_eq!(name("Web.Shop.svc.cluster.local").to_string(), "web.shop.svc.cluster.local.");
        assert_eq!(name("a.b."), name("A.B"));
        assert_eq!(name("."), Name::root());
        assert_eq!(name("a.b").wire(), b"\x01a\x01b\0");
        assert_eq!(Name::from_labels([b"a.b\x07".as_slice()]).unwrap().to_string(), "a\\.b\\007.");
        for bad in ["", "a..b", ".a", "a b", "ä", &"x".repeat(64), &["x"; 128].join(".")] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        assert!(["x"; 127].join(".").parse::<Name>().is_ok());
    }

    #[test]
    fn zones_hold_what_is_beneath_them() {
        let zone = name("cluster.local");
        assert_eq!(name("web.shop.svc.cluster.local").relative_to(&zone).unwrap(), ["web", "shop", "svc"]);
        assert_eq!(zone.relative_to(&zone).unwrap(), [""; 0]);
        for outside in ["local", "mycluster.local", "cluster.local.org"] {
            assert!(name(outside).relative_to(&zone).is_none() && !name(outside).is_in(&zone), "{outside}");
        }
        assert_eq!(zone.under("a.b").unwrap(), name("a.b.cluster.local"));
        assert!(zone.under("").is_none() && zone.under(&"x".repeat(64)).is_none());
    }

    #[test]
    fn addresses_have_names_and_back() {
        for (address, text) in [
            ("10.3.0.1", "1.0.3.10.in-addr.arpa."),
            ("2001:db8::1", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(Name::of_address(address).to_string(), text);
            assert_eq!(name(text).reverse_address(), Some(address));
        }
        for none in [
            "1.0.3.in-addr.arpa",
            "01.0.3.10.in-addr.arpa",
            "+1.0.3.10.in-addr.arpa",
            "1.2.3.256.in-addr.arpa",
            "1.ip6.arpa",
        ] {
            assert_eq!(name(none).reverse_address(), None, "{none}");
        }
    }
}
