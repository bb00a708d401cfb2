//! Addresses with ports, as a service has them twice: `{"10.2.0.1": {"http": {"Protocol": "TCP", "Port": 80}}}`.
//!
//! A service may have thousands of backends, and all of them come again with every change of one. So
//! they are read straight from the text: no address or port name becomes a string of its own, and
//! addresses with the same ports share one copy of them.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use causeway_model::{Port, Ports, PortsByAddress, Protocol};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::go::go_struct;
use super::{Fault, Reason, at_most, fault};

/// Most ports of one address.
const MAX_PORTS: usize = 1024;

/// What is written or was read. Rules that are not JSON's are not broken at once, since the value as a
/// whole may break one that says more.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct WirePorts {
    pub(super) entries: Vec<(IpAddr, Arc<Ports>)>,
    broken: Option<Broken>,
}

#[derive(Debug, Clone, PartialEq)]
enum Broken {
    Address(String),
    NullPort(String),
    TooManyPorts(usize),
}

impl WirePorts {
    /// How they are written.
    pub(super) fn of(ports: &PortsByAddress) -> Self {
        Self { entries: ports.iter().map(|(ip, ports)| (ip, ports.clone())).collect(), broken: None }
    }

    /// The first rule that is broken, if any.
    pub(super) fn check(&self, field: &'static str) -> Result<(), Fault> {
        match &self.broken {
            None => Ok(()),
            Some(Broken::Address(text)) => {
                fault(Reason::BadValue, field, format!("{text:?} is not an IP address"))
            }
            Some(Broken::NullPort(name)) => fault(Reason::BadValue, field, format!("port {name:?} is null")),
            Some(Broken::TooManyPorts(count)) => at_most(field, *count, MAX_PORTS),
        }
    }
}

go_struct! {
    struct WirePort {
        protocol: WireProtocol = "Protocol",
        port: u16 = "Port",
    }
}

/// Go keeps words it does not know; a port with such a one could never be programmed, so it is none.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct WireProtocol(Option<Protocol>);

impl Serialize for WireProtocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.map_or("", Protocol::as_str))
    }
}

impl<'de> Deserialize<'de> for WireProtocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const ALL: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];
        let text = Text("a protocol").deserialize(deserializer)?;
        Ok(Self(ALL.into_iter().find(|protocol| protocol.as_str().eq_ignore_ascii_case(&text))))
    }
}

/// Addresses in the order of their texts, as Go writes maps.
impl Serialize for WirePorts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = |(ip, ports): &(IpAddr, Arc<Ports>)| (ip.to_canonical().to_string(), ports.clone());
        let mut entries: Vec<_> = self.entries.iter().map(text).collect();
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut map = serializer.serialize_map(Some(entries.len()))?;
        for (address, ports) in &entries {
            map.serialize_entry(address, &PortsOut(ports))?;
        }
        map.end()
    }
}

struct PortsOut<'a>(&'a Ports);

impl Serialize for PortsOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let wire = |p: &Port| WirePort { protocol: WireProtocol(Some(p.protocol)), port: p.port };
        serializer.collect_map(self.0.iter().map(|(name, port)| (name, wire(port))))
    }
}

impl<'de> Deserialize<'de> for WirePorts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Addresses)
    }
}

struct Addresses;

impl<'de> Visitor<'de> for Addresses {
    type Value = WirePorts;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of addresses")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WirePorts, A::Error> {
        let mut out = WirePorts::default();
        let mut reader = PortsReader::default();
        while let Some(text) = map.next_key_seed(Text("an address"))? {
            let ports = map.next_value_seed(&mut reader)?;
            match text.parse::<IpAddr>() {
                Ok(ip) => out.entries.push((ip.to_canonical(), ports)),
                Err(_) if out.broken.is_none() => out.broken = Some(Broken::Address(text.into_owned())),
                Err(_) => {}
            }
        }
        out.broken = out.broken.or(reader.broken);
        Ok(out)
    }
}

/// Reads the ports of one address after the other.
#[derive(Default)]
struct PortsReader<'de> {
    /// Those of the address before, which most often are also those of the next.
    last: Arc<Ports>,
    seen: BTreeSet<Arc<Ports>>,
    /// Those being read.
    ports: Vec<(Cow<'de, str>, Port)>,
    broken: Option<Broken>,
}

impl<'de> PortsReader<'de> {
    fn finish(&mut self) -> Arc<Ports> {
        let same = |((name, port), (read, number)): ((&String, &Port), &(Cow<'_, str>, Port))| {
            name == read && port == number
        };
        if self.last.len() != self.ports.len() || !self.last.iter().zip(&self.ports).all(same) {
            let ports = self.ports.drain(..).map(|(name, port)| (name.into_owned(), port)).collect();
            self.last = match self.seen.get(&ports) {
                Some(seen) => seen.clone(),
                None => Arc::new(ports),
            };
            self.seen.insert(self.last.clone());
        }
        self.last.clone()
    }
}

impl<'de> DeserializeSeed<'de> for &mut PortsReader<'de> {
    type Value = Arc<Ports>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Arc<Ports>, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for &mut PortsReader<'de> {
    type Value = Arc<Ports>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of ports")
    }
    fn visit_none<E: Error>(self) -> Result<Arc<Ports>, E> {
        self.ports.clear();
        Ok(self.finish())
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Arc<Ports>, D::Error> {
        deserializer.deserialize_map(self)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Arc<Ports>, A::Error> {
        self.ports.clear();
        let mut count = 0;
        while let Some(name) = map.next_key_seed(Text("a port name"))? {
            count += 1;
            match map.next_value::<Option<WirePort>>()? {
                None if self.broken.is_none() => self.broken = Some(Broken::NullPort(name.into_owned())),
                Some(WirePort { protocol: WireProtocol(Some(protocol)), port }) if count <= MAX_PORTS => {
                    self.ports.push((name, Port { protocol, port }));
                }
                _ => {}
            }
        }
        if count > MAX_PORTS && self.broken.is_none() {
            self.broken = Some(Broken::TooManyPorts(count));
        }
        Ok(self.finish())
    }
}

/// A text where it stands; only one with escapes is copied. Says what it is in messages.
struct Text(&'static str);

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(text))
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}
