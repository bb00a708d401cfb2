//! Messages of other servers: checked, read as far as needed, and passed on as they are.

use super::{CLASS_IN, HEADER, Query, Rcode, RecordType, flag, truncated, u16_at, u32_at};
use crate::{Name, Record, RecordData, Soa};

/// Why a message is no answer to a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// It answers something else: another number, another question, or it is a query.
    NotOurs,
    /// It breaks off or contradicts itself.
    Malformed,
}

/// The answer of another server to a query.
#[derive(Debug, Clone)]
pub struct Message {
    bytes: Vec<u8>,
    rcode: Rcode,
    records: Vec<Place>,
}

/// Where a record is.
#[derive(Debug, Clone)]
struct Place {
    /// 0 answer, 1 authority, 2 additional.
    section: usize,
    start: usize,
    kind: RecordType,
    ttl_at: usize,
    data: std::ops::Range<usize>,
}

impl Message {
    /// Takes the answer to `query`, which was sent with the number `id`.
    ///
    /// # Errors
    /// [`Invalid`].
    pub fn parse(bytes: Vec<u8>, id: u16, query: &Query) -> Result<Self, Invalid> {
        let (their_id, flags) = u16_at(&bytes, 0)
            .zip(u16_at(&bytes, 2))
            .filter(|_| bytes.len() >= HEADER)
            .ok_or(Invalid::Malformed)?;
        if their_id != id || flags & flag::RESPONSE == 0 {
            return Err(Invalid::NotOurs);
        }
        let rcode = flags & 15;
        let behind = HEADER + query.question.len();
        if u16_at(&bytes, 4) == Some(0) && rcode != 0 && bytes.len() == HEADER {
            // Some say what is wrong without saying with what.
            return Ok(Self { bytes, rcode: Rcode(rcode), records: vec![] });
        }
        let question =
            bytes.get(HEADER..behind).filter(|_| u16_at(&bytes, 4) == Some(1)).ok_or(Invalid::NotOurs)?;
        // Some servers change the case of the letters.
        let same_name =
            question[..question.len() - 4].eq_ignore_ascii_case(&query.question[..question.len() - 4]);
        if !same_name || question[question.len() - 4..] != query.question[question.len() - 4..] {
            return Err(Invalid::NotOurs);
        }
        let records = walk(&bytes, behind).ok_or(Invalid::Malformed)?;
        let option = records.iter().find(|place| place.kind == RecordType::OPT);
        let high = option.map_or(0, |place| u16::from(bytes[place.ttl_at]) << 4);
        Ok(Self { rcode: Rcode(high | rcode), bytes, records })
    }

    /// What became of the query.
    pub fn rcode(&self) -> Rcode {
        self.rcode
    }

    /// Whether something is missing because it did not fit.
    pub fn truncated(&self) -> bool {
        u16_at(&self.bytes, 2).is_some_and(|flags| flags & flag::TRUNCATED != 0)
    }

    /// Whether its sender is the one to know.
    pub fn authoritative(&self) -> bool {
        u16_at(&self.bytes, 2).is_some_and(|flags| flags & flag::AUTHORITATIVE != 0)
    }

    /// Octets of the message.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// How long it may be kept, in seconds; `None` if not at all (RFC 2308 for what is not there).
    pub fn lifetime(&self) -> Option<u32> {
        if self.truncated() || ![Rcode::NO_ERROR, Rcode::NX_DOMAIN].contains(&self.rcode) {
            return None;
        }
        let asked = |place: &&Place| place.section < 2 && place.kind != RecordType::OPT;
        let shortest =
            self.records.iter().filter(asked).filter_map(|place| u32_at(&self.bytes, place.ttl_at)).min();
        let negative = self.rcode == Rcode::NX_DOMAIN || !self.records.iter().any(|place| place.section == 0);
        if !negative {
            return shortest;
        }
        let soa = self.records.iter().find(|place| place.section == 1 && place.kind == RecordType::SOA)?;
        let minimum = u32_at(&self.bytes, soa.data.end.checked_sub(4).filter(|at| *at >= soa.data.start)?)?;
        shortest.map(|ttl| ttl.min(minimum))
    }

    /// The message as the answer to a query of the same name and type, `age` seconds later, in at most `limit` octets.
    pub fn reply(&self, query: &Query, age: u32, limit: usize) -> Vec<u8> {
        if self.bytes.len() > limit {
            return truncated(query, true);
        }
        let mut bytes = self.bytes.clone();
        bytes[..2].copy_from_slice(&query.id.to_be_bytes());
        if let Some(question) = bytes.get_mut(HEADER..HEADER + query.question.len()) {
            question.copy_from_slice(&query.question);
        }
        let mut flags = u16_at(&bytes, 2).unwrap_or_default() | flag::RECURSION_AVAILABLE;
        flags &= !(flag::RECURSION_DESIRED | flag::AUTHORITATIVE);
        flags |= if query.recursion { flag::RECURSION_DESIRED } else { 0 };
        bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        for place in self.records.iter().filter(|place| place.kind != RecordType::OPT) {
            let left = u32_at(&bytes, place.ttl_at).unwrap_or_default().saturating_sub(age);
            bytes[place.ttl_at..place.ttl_at + 4].copy_from_slice(&left.to_be_bytes());
        }
        bytes
    }

    /// The records of the three sections: answer, authority, additional. Those that cannot be read are left out.
    pub fn sections(&self) -> [Vec<Record>; 3] {
        let mut sections = [vec![], vec![], vec![]];
        for place in self.records.iter().filter(|place| place.kind != RecordType::OPT) {
            if let Some(record) = self.record(place) {
                sections[place.section].push(record);
            }
        }
        sections
    }

    fn record(&self, place: &Place) -> Option<Record> {
        let bytes = &self.bytes;
        let (name, at) = name_at(bytes, place.start)?;
        if u16_at(bytes, at + 2)? != CLASS_IN {
            return None;
        }
        let data = &bytes[place.data.clone()];
        let start = place.data.start;
        // A name must end where the data ends.
        let only_name =
            |at| name_at(bytes, at).filter(|(_, end)| *end == place.data.end).map(|(name, _)| name);
        let data = match place.kind {
            RecordType::A => RecordData::A(<[u8; 4]>::try_from(data).ok()?.into()),
            RecordType::AAAA => RecordData::Aaaa(<[u8; 16]>::try_from(data).ok()?.into()),
            RecordType::CNAME => RecordData::Cname(only_name(start)?),
            RecordType::PTR => RecordData::Ptr(only_name(start)?),
            RecordType::SRV => RecordData::Srv {
                priority: u16_at(data, 0)?,
                weight: u16_at(data, 2)?,
                port: u16_at(data, 4)?,
                target: only_name(start + 6)?,
            },
            RecordType::TXT => {
                let (mut text, mut rest) = (String::new(), data);
                while let Some((&length, tail)) = rest.split_first() {
                    let (part, tail) = tail.split_at_checked(usize::from(length))?;
                    text.push_str(&String::from_utf8_lossy(part));
                    rest = tail;
                }
                RecordData::Txt(text)
            }
            RecordType::SOA => {
                let (server, at) = name_at(bytes, start)?;
                let (contact, at) = name_at(bytes, at)?;
                let number = |n: usize| u32_at(bytes, at + 4 * n).filter(|_| at + 20 == place.data.end);
                RecordData::Soa(Soa {
                    server,
                    contact,
                    serial: number(0)?,
                    times: [number(1)?, number(2)?, number(3)?],
                    negative_ttl: number(4)?,
                })
            }
            kind => RecordData::Other(kind, data.to_vec()),
        };
        Some(Record { name, ttl: u32_at(bytes, place.ttl_at)?, data })
    }
}

/// The places of all records from `at` on; `None` if one is not whole.
fn walk(bytes: &[u8], mut at: usize) -> Option<Vec<Place>> {
    let mut records = vec![];
    for (section, count_at) in [(0, 6), (1, 8), (2, 10)] {
        for _ in 0..u16_at(bytes, count_at)? {
            let start = at;
            let behind_name = skip_name(bytes, start)?;
            let kind = RecordType(u16_at(bytes, behind_name)?);
            let ttl_at = behind_name + 4;
            let from = behind_name + 10;
            let data = from..from + usize::from(u16_at(bytes, behind_name + 8)?);
            bytes.get(data.clone())?;
            at = data.end;
            records.push(Place { section, start, kind, ttl_at, data });
        }
    }
    Some(records)
}

/// The place behind a name, compressed or not.
pub(super) fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + length,
            // A pointer ends the name.
            192.. => return bytes.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
    }
}

/// A name, compressed or not, and the place behind it. Pointers lead only backwards, so this ends.
fn name_at(bytes: &[u8], start: usize) -> Option<(Name, usize)> {
    let end = skip_name(bytes, start)?;
    let (mut labels, mut at, mut before) = (vec![], start, start);
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => return Some((Name::from_labels(labels)?, end)),
            1..=63 => {
                labels.push(bytes.get(at + 1..at + 1 + length)?);
                at += 1 + length;
            }
            192.. => {
                at = usize::from(u16_at(bytes, at)? & 0x3fff);
                if at >= before {
                    return None;
                }
                before = at;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Reply;

    fn query() -> Query {
        Query::new(7, "web.shop".parse().unwrap(), RecordType::A)
    }

    fn answer(ttl: u32, soa: Option<(u32, u32)>, rcode: Rcode) -> Message {
        let name: Name = "web.shop".parse().unwrap();
        let a = Record { name: name.clone(), ttl, data: RecordData::of([10, 0, 0, 1].into()) };
        let start = |(ttl, negative_ttl)| {
            let soa = Soa {
                server: name.clone(),
                contact: name.clone(),
                serial: 1,
                times: [1, 2, 3],
                negative_ttl,
            };
            Record { name: name.clone(), ttl, data: RecordData::Soa(soa) }
        };
        let authority: Vec<_> = soa.map(start).into_iter().collect();
        let answers = if authority.is_empty() && rcode == Rcode::NO_ERROR { vec![a] } else { vec![] };
        let reply = Reply { rcode, authoritative: true, answers, authority, ..Default::default() };
        Message::parse(reply.encode(&query(), true, 512), 7, &query()).unwrap()
    }

    #[test]
    fn only_the_answer_to_the_question_is_taken() {
        let bytes = answer(300, None, Rcode::NO_ERROR).bytes;
        let with = |at: usize, octet: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = octet;
            Message::parse(bytes, 7, &query()).map(|_| ())
        };
        assert_eq!(with(13, b'W'), Ok(()), "another case");
        assert_eq!(with(1, 8), Err(Invalid::NotOurs), "another number");
        assert_eq!(with(2, 0x01), Err(Invalid::NotOurs), "a query");
        assert_eq!(with(13, b'v'), Err(Invalid::NotOurs), "another name");
        assert_eq!(with(23, 28), Err(Invalid::NotOurs), "another type");
        assert_eq!(with(5, 2), Err(Invalid::NotOurs), "two questions");
        assert_eq!(with(7, 2), Err(Invalid::Malformed), "a record that is not there");
        for cut in 0..bytes.len() {
            assert!(Message::parse(bytes[..cut].to_vec(), 7, &query()).is_err(), "{cut}");
        }
    }

    #[test]
    fn how_long_an_answer_is_kept() {
        assert_eq!(answer(300, None, Rcode::NO_ERROR).lifetime(), Some(300));
        assert_eq!(answer(0, Some((60, 20)), Rcode::NX_DOMAIN).lifetime(), Some(20));
        assert_eq!(answer(0, Some((10, 20)), Rcode::NO_ERROR).lifetime(), Some(10));
        assert_eq!(answer(0, None, Rcode::NX_DOMAIN).lifetime(), None, "nobody says for how long");
        assert_eq!(answer(0, Some((60, 20)), Rcode::SERVER_FAILURE).lifetime(), None);
    }

    #[test]
    fn a_kept_answer_is_the_next_clients_own() {
        let message = answer(300, None, Rcode::NO_ERROR);
        let mut asked = query();
        asked.id = 99;
        asked.recursion = false;
        asked.question[1] = b'W';
        let bytes = message.reply(&asked, 20, 512);
        assert_eq!(&bytes[12..17], b"\x03Web\x04");
        let again = Message::parse(bytes, 99, &asked).unwrap();
        assert!(!again.authoritative() && !again.truncated());
        assert_eq!(again.sections()[0][0].ttl, 280);
        let old = Message::parse(message.reply(&asked, 400, 512), 99, &asked).unwrap();
        assert_eq!(old.sections()[0][0].ttl, 0);
        let cut = Message::parse(message.reply(&asked, 0, 40), 99, &asked).unwrap();
        assert!(cut.truncated());
    }

    #[test]
    fn names_that_lead_round_in_circles_are_none() {
        let head = b"\0\x07\x81\x80\0\x01\0\x01\0\0\0\0\x03web\x04shop\0\0\x01\0\x01";
        let tail = b"\0\x05\0\x01\0\0\0\x05\0\x02";
        for (owner, target) in [(26, 12), (12, 38), (12, 39), (12, 0xfff)] {
            let pointer = |to: u16| (0xc000 | to).to_be_bytes();
            let bytes = [&head[..], &pointer(owner), tail, &pointer(target)].concat();
            let message = Message::parse(bytes, 7, &query()).unwrap();
            let good = (owner, target) == (12, 12);
            assert_eq!(message.sections()[0].len(), usize::from(good), "{owner} {target}");
        }
    }

    proptest! {
        /// Whatever comes, nothing panics, and what is read can be passed on.
        #[test]
        fn anything_may_come(noise in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..80, from in 0usize..3) {
            let good = [
                query().encode(7),
                answer(300, None, Rcode::NO_ERROR).bytes,
                answer(3, Some((60, 20)), Rcode::NX_DOMAIN).bytes,
            ];
            let mut bytes = good[from].clone();
            let at = at.min(bytes.len());
            bytes.splice(at..(at + noise.len()).min(bytes.len()), noise);
            let _ = Query::parse(&bytes);
            if let Ok(message) = Message::parse(bytes, 7, &query()) {
                let _ = (message.lifetime(), message.sections());
                let reply = message.reply(&query(), 5, 512);
                prop_assert!(reply.len() <= 512);
            }
        }
    }
}
