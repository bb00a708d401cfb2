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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> WirePorts {
        serde_json::from_str(text).unwrap()
    }

    fn reason(text: &str) -> Option<Reason> {
        read(text).check("backends").err().map(|fault| fault.reason)
    }

    #[test]
    fn goes_tolerance_is_kept() {
        let wire = read(
            r#"{"10.0.0.1":null,"::ffff:10.0.0.2":{},"10.0.0.3":{"a\u002db":{"PROTOCOL":"tcp","port":80,"x":[1]},
                "quic":{"Protocol":"QUIC","Port":443},"none":{"Protocol":null,"Port":null}}}"#,
        );
        assert_eq!(wire.check("backends").ok(), Some(()));
        let ports = PortsByAddress::from_iter(wire.entries);
        let of = |ip: &str| ports.get(ip.parse().unwrap()).unwrap();
        assert!(of("10.0.0.1").is_empty() && of("10.0.0.2").is_empty());
        assert_eq!(*of("10.0.0.3"), [("a-b".to_owned(), Port { protocol: Protocol::TCP, port: 80 })].into());
    }

    #[test]
    fn equal_ports_are_shared_also_when_others_come_between() {
        let (a, b) = (r#"{"http":{"Protocol":"TCP","Port":80}}"#, r#"{"http":{"Protocol":"TCP","Port":81}}"#);
        let wire = read(&format!(r#"{{"10.0.0.1":{a},"10.0.0.2":{a},"10.0.0.3":{b},"10.0.0.4":{a}}}"#));
        let ports: Vec<_> = wire.entries.iter().map(|(_, ports)| ports).collect();
        assert!(Arc::ptr_eq(ports[0], ports[1]) && Arc::ptr_eq(ports[0], ports[3]));
        assert_eq!(ports[2]["http"].port, 81);
    }

    #[test]
    fn broken_rules_are_named_once_the_text_is_read() {
        let port = r#"{"Protocol":"TCP","Port":80}"#;
        assert_eq!(reason(&format!(r#"{{"10.0.0.1":{{"a":{port},"b":null}}}}"#)), Some(Reason::BadValue));
        assert_eq!(reason(&format!(r#"{{"x":{{"a":{port}}},"10.0.0.1":null}}"#)), Some(Reason::BadValue));
        let many = |count: usize| {
            let ports: Vec<_> = (0..count).map(|n| format!(r#""p{n}":{port}"#)).collect();
            reason(&format!(r#"{{"10.0.0.1":{{{}}}}}"#, ports.join(",")))
        };
        assert_eq!((many(MAX_PORTS), many(MAX_PORTS + 1)), (None, Some(Reason::TooMany)));
        assert!(serde_json::from_str::<WirePorts>(r#"{"10.0.0.1":{"a":{"Protocol":6,"Port":80}}}"#).is_err());
        assert!(
            serde_json::from_str::<WirePorts>(r#"{"10.0.0.1":{"a":{"Protocol":"TCP","Port":70000}}}"#)
                .is_err()
        );
    }
}
