//! Replies of ours.

use std::collections::HashMap;

use super::query::option_record;
use super::{CLASS_IN, HEADER, Query, Rcode, flag};
use crate::{Name, Record, RecordData};

/// Places beyond this cannot be pointed at.
const MAX_POINTER: usize = 0x3fff;

/// What is answered to a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What became of it.
    pub rcode: Rcode,
    /// Whether we are the ones to know.
    pub authoritative: bool,
    /// The answer.
    pub answers: Vec<Record>,
    /// Where a negative answer comes from.
    pub authority: Vec<Record>,
    /// What the client will ask next.
    pub additional: Vec<Record>,
}

impl Default for Reply {
    fn default() -> Self {
        Self {
            rcode: Rcode::NO_ERROR,
            authoritative: false,
            answers: vec![],
            authority: vec![],
            additional: vec![],
        }
    }
}

impl Reply {
    /// The message of at most `limit` octets (not less than 512). What does not fit is left out and the message says so,
    /// except of what is additional. `recursive`: whether we ask others.
    pub fn encode(&self, query: &Query, recursive: bool, limit: usize) -> Vec<u8> {
        let option = query.edns.map(|edns| option_record(self.rcode.0, edns.dnssec_ok));
        let mut writer = Writer {
            message: vec![0; HEADER],
            limit: limit - option.map_or(0, |o| o.len()),
            names: HashMap::new(),
        };
        writer.message.extend(&query.question);
        writer.learn(&query.name, HEADER);
        let (answers, whole) = writer.section(&self.answers);
        let (authority, whole) = if whole { writer.section(&self.authority) } else { (0, false) };
        let (additional, _) = if whole { writer.section(&self.additional) } else { (0, false) };
        let mut message = writer.message;
        message.extend(option.iter().flatten());
        let flags = [
            (self.authoritative, flag::AUTHORITATIVE),
            (!whole, flag::TRUNCATED),
            (query.recursion, flag::RECURSION_DESIRED),
            (recursive, flag::RECURSION_AVAILABLE),
            (query.checking_disabled, flag::CHECKING_DISABLED),
        ];
        let flags: u16 = flags.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum();
        let counts = [1, answers, authority, additional + u16::from(option.is_some())];
        let words = [query.id, flag::RESPONSE | flags | self.rcode.0 & 15].into_iter().chain(counts);
        for (at, word) in words.enumerate() {
            message[at * 2..at * 2 + 2].copy_from_slice(&word.to_be_bytes());
        }
        message
    }
}

/// The reply that says nothing but that it would not fit: the client asks again over TCP.
pub fn truncated(query: &Query, recursive: bool) -> Vec<u8> {
    let mut message = Reply::default().encode(query, recursive, usize::from(super::SMALL_PAYLOAD));
    message[2] |= (flag::TRUNCATED >> 8) as u8;
    message
}

struct Writer {
    message: Vec<u8>,
    limit: usize,
    /// Where a name (as on the wire) was written.
    names: HashMap<Vec<u8>, u16>,
}

impl Writer {
    /// Writes records as long as they fit; how many, and whether they were all.
    fn section(&mut self, records: &[Record]) -> (u16, bool) {
        for (count, record) in (0u16..).zip(records) {
            let before = self.message.len();
            self.record(record);
            if self.message.len() > self.limit {
                self.message.truncate(before);
                self.names.retain(|_, at| usize::from(*at) < before);
                return (count, false);
            }
        }
        (records.len() as u16, true)
    }

    fn record(&mut self, record: &Record) {
        self.name(&record.name);
        self.words(&[record.data.kind().0, CLASS_IN]);
        self.message.extend(record.ttl.to_be_bytes());
        let length_at = self.message.len();
        self.words(&[0]);
        match &record.data {
            RecordData::A(ip) => self.message.extend(ip.octets()),
            RecordData::Aaaa(ip) => self.message.extend(ip.octets()),
            RecordData::Cname(name) | RecordData::Ptr(name) => self.name(name),
            RecordData::Srv { priority, weight, port, target } => {
                self.words(&[*priority, *weight, *port]);
                // Not compressed (RFC 2782).
                self.learn(target, self.message.len());
                self.message.extend(target.wire());
            }
            RecordData::Txt(text) => {
                let text = &text.as_bytes()[..text.len().min(255)];
                self.message.push(text.len() as u8);
                self.message.extend(text);
            }
            RecordData::Soa(soa) => {
                self.name(&soa.server);
                self.name(&soa.contact);
                let [refresh, retry, expire] = soa.times;
                for number in [soa.serial, refresh, retry, expire, soa.negative_ttl] {
                    self.message.extend(number.to_be_bytes());
                }
            }
            RecordData::Other(_, octets) => self.message.extend(octets),
        }
        let length = (self.message.len() - length_at - 2) as u16;
        self.message[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    }

    fn words(&mut self, words: &[u16]) {
        words.iter().for_each(|word| self.message.extend(word.to_be_bytes()));
    }

    /// Writes a name; its end is a pointer where it was written before.
    fn name(&mut self, name: &Name) {
        let wire = name.wire();
        let mut at = 0;
        while wire[at] != 0 {
            if let Some(place) = self.names.get(&wire[at..]) {
                let pointer = 0xc000 | place;
                let start = self.message.len();
                self.message.extend(&wire[..at]);
                self.remember(&wire[..at], wire, start);
                self.words(&[pointer]);
                return;
            }
            at += 1 + usize::from(wire[at]);
        }
        self.learn(name, self.message.len());
        self.message.extend(wire);
    }

    /// The name is (about to be) at this place, whole.
    fn learn(&mut self, name: &Name, place: usize) {
        let wire = name.wire();
        self.remember(&wire[..wire.len() - 1], wire, place);
    }

    /// The labels in `front`, which begin `wire`, are at `place`.
    fn remember(&mut self, front: &[u8], wire: &[u8], place: usize) {
        let mut at = 0;
        while at < front.len() {
            if place + at <= MAX_POINTER {
                self.names.entry(wire[at..].to_vec()).or_insert((place + at) as u16);
            }
            at += 1 + usize::from(front[at]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Message, RecordType};

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn address(owner: &str, last: u8) -> Record {
        Record { name: name(owner), ttl: 5, data: RecordData::of([10, 0, 0, last].into()) }
    }

    #[test]
    fn octets_on_the_wire() {
        let query = Query { edns: None, ..Query::new(0x1234, name("a.bc"), RecordType::CNAME) };
        let alias = Record { name: name("a.bc"), ttl: 5, data: RecordData::Cname(name("d.bc")) };
        let reply =
            Reply { authoritative: true, answers: vec![alias, address("d.bc", 7)], ..Default::default() };
        let wanted: &[u8] = b"\x12\x34\x85\x80\x00\x01\x00\x02\x00\x00\x00\x00\
            \x01a\x02bc\x00\x00\x05\x00\x01\
            \xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x05\x00\x04\x01d\xc0\x0e\
            \xc0\x22\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x0a\x00\x00\x07";
        assert_eq!(reply.encode(&query, true, 512), wanted);
    }

    #[test]
    fn every_kind_of_record_comes_back() {
        let zone = name("cluster.local");
        let soa = Soa {
            server: name("ns.dns.cluster.local"),
            contact: name("x.cluster.local"),
            serial: 9,
            times: [7, 8, 9],
            negative_ttl: 5,
        };
        let data = [
            RecordData::of("10.1.2.3".parse().unwrap()),
            RecordData::of("fd00::3".parse().unwrap()),
            RecordData::Cname(name("example.com")),
            RecordData::Ptr(name("web.shop.svc.cluster.local")),
            RecordData::Srv {
                priority: 0,
                weight: 100,
                port: 80,
                target: name("web.shop.svc.cluster.local"),
            },
            RecordData::Txt("1.1.0".into()),
            RecordData::Soa(soa),
            RecordData::Other(RecordType(65), vec![1, 2, 3]),
        ];
        let records: Vec<_> =
            data.into_iter().map(|data| Record { name: zone.clone(), ttl: 5, data }).collect();
        let reply = Reply {
            answers: records.clone(),
            authority: records.clone(),
            additional: records,
            ..Default::default()
        };
        let query = Query::new(3, name("a.cluster.local"), RecordType::TXT);
        let bytes = reply.encode(&query, false, 65535);
        let message = Message::parse(bytes, 3, &query).unwrap();
        assert_eq!(message.sections(), [reply.answers, reply.authority, reply.additional]);
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_said() {
        let query = Query { edns: None, ..Query::new(1, name("web.shop"), RecordType::A) };
        let many: Vec<_> = (0..200).map(|n| address("web.shop", n)).collect();
        let reply = Reply { answers: many, ..Default::default() };
        let small = reply.encode(&query, true, 512);
        assert!(small.len() <= 512 && small.len() > 490, "{}", small.len());
        let message = Message::parse(small, 1, &query).unwrap();
        assert!(message.truncated());
        assert_eq!(message.sections()[0].len(), (512 - 12 - 14) / 16);
        let whole = Message::parse(reply.encode(&query, true, 65535), 1, &query).unwrap();
        assert!(!whole.truncated() && whole.sections()[0].len() == 200);

        // What is additional may be missing, and the extension always has room.
        let query = Query::new(1, name("web.shop"), RecordType::A);
        let reply = Reply { additional: reply.answers, ..Default::default() };
        let small = reply.encode(&query, true, 512);
        assert!(small.len() <= 512);
        let message = Message::parse(small, 1, &query).unwrap();
        assert!(!message.truncated() && message.sections()[2].len() > 20);

        let nothing = Message::parse(truncated(&query, true), 1, &query).unwrap();
        assert!(nothing.truncated() && nothing.sections()[0].is_empty());
    }

    #[test]
    fn codes_beyond_four_bits_are_in_the_extension() {
        let query = Query::new(1, name("a"), RecordType::A);
        let reply = Reply { rcode: Rcode::BAD_VERSION, ..Default::default() };
        let message = Message::parse(reply.encode(&query, true, 512), 1, &query).unwrap();
        assert_eq!(message.rcode(), Rcode::BAD_VERSION);
    }

    use crate::Soa;
}
