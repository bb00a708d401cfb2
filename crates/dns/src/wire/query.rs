//! Queries, as clients send them and as we send them to other servers.

use super::{CLASS_IN, HEADER, PAYLOAD, Rcode, RecordType, SMALL_PAYLOAD, flag, u16_at};
use crate::Name;

/// The extension of a query (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edns {
    /// Size of the datagrams the client takes.
    pub payload: u16,
    /// Whether it wants signatures.
    pub dnssec_ok: bool,
}

/// One question with what matters around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The client's number of it.
    pub id: u16,
    /// Whether others may be asked.
    pub recursion: bool,
    /// Whether signatures need not be checked.
    pub checking_disabled: bool,
    /// The name.
    pub name: Name,
    /// The type of records.
    pub kind: RecordType,
    /// The question as it came: the case of its letters is the client's.
    pub question: Vec<u8>,
    /// The extension, if the client has it.
    pub edns: Option<Edns>,
}

/// Why there is no query in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It must not be answered: it is too short to have a sender's number, or is an answer itself.
    Silently,
    /// It is answered with this code; the reply is complete.
    With(Rcode, Vec<u8>),
}

impl Query {
    /// A question of our own; `recursion` is wanted and large datagrams are taken.
    pub fn new(id: u16, name: Name, kind: RecordType) -> Self {
        let mut question = name.wire().to_vec();
        question.extend(kind.0.to_be_bytes());
        question.extend(CLASS_IN.to_be_bytes());
        let edns = Some(Edns { payload: PAYLOAD, dnssec_ok: false });
        Self { id, recursion: true, checking_disabled: false, name, kind, question, edns }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`Refused`], with what to answer.
    pub fn parse(message: &[u8]) -> Result<Self, Refused> {
        let (Some(id), Some(flags), Some(questions)) =
            (u16_at(message, 0), u16_at(message, 2), u16_at(message, 4))
        else {
            return Err(Refused::Silently);
        };
        if message.len() < HEADER || flags & flag::RESPONSE != 0 {
            return Err(Refused::Silently);
        }
        let refuse = |rcode| Refused::With(rcode, bare(id, flags, rcode));
        if flags >> 11 & 15 != 0 {
            return Err(refuse(Rcode::NOT_IMPLEMENTED));
        }
        if questions != 1 {
            return Err(refuse(Rcode::FORMAT_ERROR));
        }
        let formed = || -> Option<(Self, u16, Option<u8>)> {
            let (name, at) = plain_name(message, HEADER)?;
            let (kind, class) = (u16_at(message, at)?, u16_at(message, at + 2)?);
            let question = message.get(HEADER..at + 4)?.to_vec();
            let (edns, version) = extension(message, at + 4)?;
            let query = Self {
                id,
                recursion: flags & flag::RECURSION_DESIRED != 0,
                checking_disabled: flags & flag::CHECKING_DISABLED != 0,
                name,
                kind: RecordType(kind),
                question,
                edns,
            };
            Some((query, class, version))
        };
        let (query, class, version) = formed().ok_or_else(|| refuse(Rcode::FORMAT_ERROR))?;
        let answer = |rcode: Rcode| {
            let reply = super::Reply { rcode, ..Default::default() };
            Refused::With(rcode, reply.encode(&query, false, usize::from(SMALL_PAYLOAD)))
        };
        match version {
            Some(version) if version > 0 => return Err(answer(Rcode::BAD_VERSION)),
            _ => {}
        }
        if class != CLASS_IN {
            return Err(answer(Rcode::REFUSED));
        }
        if query.kind.is_meta() {
            return Err(answer(Rcode::NOT_IMPLEMENTED));
        }
        Ok(query)
    }

    /// How large a datagram the client takes, and we send.
    pub fn payload(&self) -> usize {
        usize::from(self.edns.map_or(SMALL_PAYLOAD, |edns| edns.payload.clamp(SMALL_PAYLOAD, PAYLOAD)))
    }

    /// The message to ask another server, with a number of ours.
    pub fn encode(&self, id: u16) -> Vec<u8> {
        let mut flags = 0;
        for (set, bit) in
            [(self.recursion, flag::RECURSION_DESIRED), (self.checking_disabled, flag::CHECKING_DISABLED)]
        {
            flags |= if set { bit } else { 0 };
        }
        let mut message = vec![];
        for word in [id, flags, 1, 0, 0, u16::from(self.edns.is_some())] {
            message.extend(word.to_be_bytes());
        }
        message.extend(&self.question);
        if let Some(edns) = self.edns {
            message.extend(option_record(0, edns.dnssec_ok));
        }
        message
    }
}

/// The OPT record we send; `rcode` is the whole code, of which it holds the upper bits.
pub(super) fn option_record(rcode: u16, dnssec_ok: bool) -> [u8; 11] {
    let [payload_high, payload_low] = PAYLOAD.to_be_bytes();
    let [kind_high, kind_low] = RecordType::OPT.0.to_be_bytes();
    let dnssec = if dnssec_ok { 0x80 } else { 0 };
    [0, kind_high, kind_low, payload_high, payload_low, (rcode >> 4) as u8, 0, dnssec, 0, 0, 0]
}

/// A reply of nothing but a header.
fn bare(id: u16, flags: u16, rcode: Rcode) -> Vec<u8> {
    let kept = flags & (0x7800 | flag::RECURSION_DESIRED | flag::CHECKING_DISABLED);
    let words = [id, flag::RESPONSE | kept | rcode.0 & 15, 0, 0, 0, 0];
    words.into_iter().flat_map(u16::to_be_bytes).collect()
}

/// A name without compression, as questions have it, and the place behind it.
fn plain_name(message: &[u8], start: usize) -> Option<(Name, usize)> {
    let mut labels = vec![];
    let mut at = start;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((Name::from_labels(labels)?, at));
        }
        // Two set bits are a pointer, which the first name of a message cannot be.
        if length > 63 {
            return None;
        }
        labels.push(message.get(at..at + length)?);
        at += length;
    }
}

/// The extension behind the question, and its version; an error if the records there are none, or two extensions.
#[allow(clippy::type_complexity)]
fn extension(message: &[u8], start: usize) -> Option<(Option<Edns>, Option<u8>)> {
    let count = |at| u16_at(message, at).map(usize::from);
    let records = count(6)? + count(8)? + count(10)?;
    let (mut at, mut found) = (start, None);
    for _ in 0..records {
        let is_root = message.get(at) == Some(&0);
        at = super::message::skip_name(message, at)?;
        let (kind, size) = (RecordType(u16_at(message, at)?), u16_at(message, at + 2)?);
        let (version, flags) = (*message.get(at + 5)?, u16_at(message, at + 6)?);
        let length = usize::from(u16_at(message, at + 8)?);
        message.get(at + 10..at + 10 + length)?;
        at += 10 + length;
        if kind == RecordType::OPT {
            if !is_root || found.is_some() {
                return None;
            }
            found = Some((Edns { payload: size, dnssec_ok: flags & 0x8000 != 0 }, version));
        }
    }
    // Octets behind the last record are not looked at: some stubs pad.
    Some((found.map(|(edns, _)| edns), found.map(|(_, version)| version)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Web.Shop` A IN, id 0x1234, recursion desired.
    const PLAIN: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03Web\x04Shop\x00\x00\x01\x00\x01";
    const OPT: &[u8] = b"\x00\x00\x29\x10\x00\x00\x00\x80\x00\x00\x00";

    fn with(changes: &[(usize, u8)], tail: &[u8]) -> Vec<u8> {
        let mut message = PLAIN.to_vec();
        changes.iter().for_each(|(at, octet)| message[*at] = *octet);
        message.extend(tail);
        message
    }

    #[test]
    fn a_question_is_read() {
        let query = Query::parse(PLAIN).unwrap();
        assert_eq!((query.id, query.recursion, query.kind), (0x1234, true, RecordType::A));
        assert_eq!(query.name.to_string(), "web.shop.");
        assert_eq!(query.question, &PLAIN[12..], "the case of the letters is kept");
        assert_eq!((query.edns, query.payload()), (None, 512));
        let query = Query::parse(&with(&[(11, 1)], OPT)).unwrap();
        assert_eq!(query.edns, Some(Edns { payload: 4096, dnssec_ok: true }));
        assert_eq!(query.payload(), 1232);
    }

    #[test]
    fn what_is_asked_elsewhere() {
        let query = Query::parse(&with(&[(11, 1)], OPT)).unwrap();
        let mut wanted = with(&[(0, 0xab), (1, 0xcd), (11, 1)], OPT);
        wanted[PLAIN.len() + 3..PLAIN.len() + 5].copy_from_slice(&PAYLOAD.to_be_bytes());
        assert_eq!(query.encode(0xabcd), wanted);
        let own = Query::new(7, "web.shop".parse().unwrap(), RecordType::AAAA);
        assert_eq!(Query::parse(&own.encode(7)).unwrap(), own);
    }

    #[test]
    fn what_is_no_query_is_refused_with_the_right_code() {
        let code = |message: &[u8]| match Query::parse(message) {
            Err(Refused::With(rcode, reply)) => {
                assert_eq!(reply[..2], message[..2], "the client's number");
                assert_eq!(reply[2] & 0x80, 0x80, "a response");
                assert_eq!(u16::from(reply[3] & 15), rcode.0 & 15);
                rcode
            }
            other => panic!("{other:?}"),
        };
        let format = Rcode::FORMAT_ERROR;
        assert_eq!(code(&with(&[(2, 0x28)], &[])), Rcode::NOT_IMPLEMENTED, "an update");
        assert_eq!(code(&with(&[(5, 0)], &[])), format, "no question");
        assert_eq!(code(&with(&[(5, 2)], &[])), format, "two questions");
        assert_eq!(code(&with(&[(12, 0xc0)], &[])), format, "a pointer");
        assert_eq!(code(&with(&[(12, 64)], &[])), format, "a label of another kind");
        assert_eq!(code(&PLAIN[..PLAIN.len() - 1]), format, "cut");
        assert_eq!(code(&with(&[(11, 1)], &[])), format, "a record that is not there");
        assert_eq!(code(&with(&[(11, 2)], &[OPT, OPT].concat())), format, "two extensions");
        assert_eq!(
            code(&with(&[(11, 1)], b"\x00\x00\x29\x10\x00\x00\x00\x80\x00\xff\xff")),
            format,
            "longer than it is"
        );
        assert_eq!(
            code(&with(&[(11, 1)], b"\x00\x00\x29\x10\x00\x00\x01\x00\x00\x00\x00")),
            Rcode::BAD_VERSION
        );
        assert_eq!(code(&with(&[(25, 3)], &[])), Rcode::REFUSED, "class CH");
        for meta in [0, 41, 251, 252, 255] {
            assert_eq!(code(&with(&[(23, meta)], &[])), Rcode::NOT_IMPLEMENTED, "{meta}");
        }
    }

    #[test]
    fn some_messages_are_not_answered_at_all() {
        for message in [&[][..], &[1], &PLAIN[..11], &with(&[(2, 0x81)], &[])] {
            assert_eq!(Query::parse(message), Err(Refused::Silently), "{message:?}");
        }
    }

    #[test]
    fn a_name_of_too_many_octets_is_none() {
        let mut message = PLAIN[..12].to_vec();
        (0..128).for_each(|_| message.extend(b"\x01x"));
        message.extend(b"\0\x00\x01\x00\x01");
        assert!(matches!(Query::parse(&message), Err(Refused::With(Rcode::FORMAT_ERROR, _))));
    }
}
