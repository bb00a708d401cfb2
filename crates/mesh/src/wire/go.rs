//! Go's way with JSON (mesh-protocol 2.0): letter case of field names does not matter when reading,
//! `null` means "not set" for every type, and addresses, masks and CIDRs have texts of their own.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use serde::de::{self, DeserializeSeed, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::{Fault, MAX_DEPTH, Reason, fault};

/// Declares a struct that is written with exactly these field names in this order, and read as Go
/// reads it: any letter case, unknown fields skipped, `null` and absence alike.
macro_rules! go_struct {
    ($(#[$meta:meta])* struct $name:ident {
        $( $(#[$fmeta:meta])* $field:ident : $ty:ty = $json:literal ),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
        pub(crate) struct $name {
            $( $(#[$fmeta])* #[serde(rename = $json)] pub(crate) $field: $ty, )*
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;
                impl<'de> serde::de::Visitor<'de> for Fields {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }
                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        use serde::de::Error as _;
                        let mut out = $name::default();
                        while let Some(name) = map.next_key_seed($crate::wire::go::FieldName(&[$($json),*]))? {
                            match name {
                                $( Some($json) => {
                                    let value: Option<$ty> = map
                                        .next_value()
                                        .map_err(|e| A::Error::custom(format_args!("{}: {e}", $json)))?;
                                    if let Some(value) = value {
                                        out.$field = value;
                                    }
                                } )*
                                _ => drop(map.next_value::<serde::de::IgnoredAny>()?),
                            }
                        }
                        Ok(out)
                    }
                }
                deserializer.deserialize_map(Fields)
            }
        }
    };
}
pub(crate) use go_struct;

/// Finds the canonical spelling of a field name without allocating.
pub(crate) struct FieldName(pub(crate) &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for FieldName {
    type Value = Option<&'static str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for FieldName {
    type Value = Option<&'static str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }
    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().copied().find(|known| known.eq_ignore_ascii_case(name)))
    }
}

/// Parses a value, with the decoder's message as the rule.
pub(crate) fn parse<'de, T: Deserialize<'de>>(value: &'de [u8]) -> Result<T, Fault> {
    if depth(value) > MAX_DEPTH {
        let rule = format!("nested deeper than the {MAX_DEPTH} levels that are accepted");
        return fault(Reason::TooDeep, "value", rule);
    }
    serde_json::from_slice(value)
        .or_else(|e| fault(Reason::BadValue, "value", format!("not valid JSON of its kind: {e}")))
}

/// How deep objects and lists are nested, of valid JSON; of anything else some number.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => drop(bytes.next()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

/// Prints a value.
pub(crate) fn print<T: Serialize>(value: &T) -> Vec<u8> {
    // Only a failing Serialize impl or a non-text map key can fail, and we have neither.
    serde_json::to_vec(value).unwrap_or_default()
}

/// Go's `net.IP`: an address, or `""` when not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct GoIp(pub(crate) Option<IpAddr>);

impl Serialize for GoIp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(ip) => serializer.collect_str(&ip.to_canonical()),
            None => serializer.serialize_str(""),
        }
    }
}

impl<'de> Deserialize<'de> for GoIp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self(None));
        }
        match text.parse::<IpAddr>() {
            Ok(ip) => Ok(Self(Some(ip.to_canonical()))),
            Err(_) => Err(de::Error::custom(format_args!("{text:?} is not an IP address"))),
        }
    }
}

/// Go's `net.IPMask`: base64 of the mask bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct GoMask(pub(crate) Vec<u8>);

impl GoMask {
    /// The mask of a prefix: 4 bytes for IPv4, 16 for IPv6.
    pub(crate) fn of(net: &IpNet) -> Self {
        Self(match net {
            IpNet::V4(net) => net.netmask().octets().to_vec(),
            IpNet::V6(net) => net.netmask().octets().to_vec(),
        })
    }
}

impl Serialize for GoMask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for GoMask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        match STANDARD.decode(text.as_bytes()) {
            Ok(bytes) => Ok(Self(bytes)),
            Err(_) => Err(de::Error::custom(format_args!("{text:?} is not base64 of a network mask"))),
        }
    }
}

/// The prefix of an address and a mask. The mask must be contiguous, of the address's family, and
/// leave no host bits set.
pub(crate) fn prefix(field: &'static str, ip: IpAddr, mask: &GoMask) -> Result<IpNet, Fault> {
    let mask_ip = match (ip, mask.0.len()) {
        (IpAddr::V4(_), 4) => <[u8; 4]>::try_from(&mask.0[..]).map(IpAddr::from).ok(),
        (IpAddr::V6(_), 16) => <[u8; 16]>::try_from(&mask.0[..]).map(IpAddr::from).ok(),
        _ => None,
    };
    let Some(mask_ip) = mask_ip else {
        return fault(
            Reason::BadValue,
            field,
            format!("the mask has {} bytes; 4 for IPv4 and 16 for IPv6 are right", mask.0.len()),
        );
    };
    match IpNet::with_netmask(ip, mask_ip) {
        Ok(net) if net.network() == ip => Ok(net),
        Ok(net) => {
            fault(Reason::BadValue, field, format!("{ip} has host bits set beyond /{}", net.prefix_len()))
        }
        Err(_) => fault(Reason::BadValue, field, format!("{mask_ip} is not a contiguous network mask")),
    }
}

go_struct! {
    /// Go's `net.IPNet`.
    struct GoCidr {
        ip: GoIp = "IP",
        mask: Option<GoMask> = "Mask",
    }
}

impl GoCidr {
    /// The CIDR of a prefix.
    pub(crate) fn of(net: &IpNet) -> Self {
        Self { ip: GoIp(Some(net.network())), mask: Some(GoMask::of(net)) }
    }

    /// The prefix it stands for.
    pub(crate) fn prefix(&self, field: &'static str) -> Result<IpNet, Fault> {
        match (self.ip.0, &self.mask) {
            (Some(ip), Some(mask)) => prefix(field, ip, mask),
            _ => fault(Reason::BadValue, field, "a CIDR needs both IP and Mask"),
        }
    }
}
