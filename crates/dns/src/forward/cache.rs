//! Answers of others, kept for a short time. Pure: time is an argument.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Name;
use crate::wire::{Message, Query, RecordType};

/// What makes two questions have the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    name: Name,
    kind: RecordType,
    /// `None` without the extension, else whether signatures are wanted.
    extension: Option<bool>,
    checking_disabled: bool,
    recursion: bool,
}

impl Key {
    pub(super) fn of(query: &Query) -> Self {
        Self {
            name: query.name.clone(),
            kind: query.kind,
            extension: query.edns.map(|edns| edns.dnssec_ok),
            checking_disabled: query.checking_disabled,
            recursion: query.recursion,
        }
    }
}

#[derive(Debug)]
struct Kept {
    message: Arc<Message>,
    since: Instant,
    until: Instant,
}

/// A bounded number of answers; the oldest go first.
#[derive(Debug)]
pub(super) struct Cache {
    entries: HashMap<Key, Kept>,
    /// Keys in the order they came in, with the time they did.
    order: VecDeque<(Key, Instant)>,
    most: usize,
    longest: Duration,
}

impl Cache {
    /// At most so many answers (0 = none), for at most so long.
    pub(super) fn new(most: usize, longest: Duration) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), most, longest }
    }

    /// An answer that may still be used, and its age in seconds.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<(Arc<Message>, u32)> {
        let kept = self.entries.get(key).filter(|kept| now < kept.until)?;
        Some((kept.message.clone(), now.duration_since(kept.since).as_secs() as u32))
    }

    /// Keeps an answer, if it says for how long.
    pub(super) fn put(&mut self, key: Key, message: Arc<Message>, now: Instant) {
        let Some(lifetime) = message.lifetime().filter(|seconds| *seconds > 0 && self.most > 0) else {
            return;
        };
        let until = now + Duration::from_secs(lifetime.into()).min(self.longest);
        self.order.push_back((key.clone(), now));
        self.entries.insert(key, Kept { message, since: now, until });
        // What came in again has a younger place too; the old one is just dropped.
        while let Some((key, since)) = self.order.front() {
            let current = self.entries.get(key).is_some_and(|kept| kept.since == *since);
            let old = self.entries.get(key).is_some_and(|kept| now >= kept.until);
            if current && !old && self.entries.len() <= self.most {
                break;
            }
            if current {
                self.entries.remove(key);
            }
            self.order.pop_front();
        }
    }

    /// How many answers are kept, those included that are too old.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Reply;
    use crate::{Record, RecordData};

    fn question(n: u32) -> Query {
        Query::new(1, format!("n{n}.example.com").parse().unwrap(), RecordType::A)
    }

    fn answer(query: &Query, ttl: u32) -> Arc<Message> {
        let record = Record { name: query.name.clone(), ttl, data: RecordData::of([192, 0, 2, 1].into()) };
        let reply = Reply { answers: vec![record], ..Default::default() };
        Arc::new(Message::parse(reply.encode(query, true, 512), 1, query).unwrap())
    }

    #[test]
    fn answers_are_kept_as_long_as_they_and_we_allow() {
        let (mut cache, start) = (Cache::new(10, Duration::from_secs(30)), Instant::now());
        for (n, ttl) in [(1, 10), (2, 3600), (3, 0)] {
            let query = question(n);
            cache.put(Key::of(&query), answer(&query, ttl), start);
        }
        let age = |n: u32, seconds| {
            let key = Key::of(&question(n));
            cache.get(&key, start + Duration::from_secs(seconds)).map(|(_, age)| age)
        };
        assert_eq!((age(1, 9), age(1, 10)), (Some(9), None));
        assert_eq!((age(2, 29), age(2, 30)), (Some(29), None));
        assert_eq!(age(3, 0), None);
        let mut other = question(1);
        other.edns = None;
        assert!(cache.get(&Key::of(&other), start).is_none(), "another form of the answer");
    }

    #[test]
    fn there_are_never_more_than_allowed() {
        let (mut cache, start) = (Cache::new(3, Duration::from_secs(30)), Instant::now());
        let now = |n: u32| start + Duration::from_millis(n.into());
        for n in 0..100 {
            // One is asked for again and again, and so stays.
            for query in [question(n + 1000), question(7)] {
                cache.put(Key::of(&query), answer(&query, 300), now(n));
            }
            assert!(cache.len() <= 3 && cache.order.len() <= 6, "{} {}", cache.len(), cache.order.len());
        }
        assert!(cache.get(&Key::of(&question(7)), now(100)).is_some());
        assert!(cache.get(&Key::of(&question(1099)), now(100)).is_some());
        assert!(cache.get(&Key::of(&question(1050)), now(100)).is_none());
    }
}
