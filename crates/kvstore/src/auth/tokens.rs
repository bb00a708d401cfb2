//! Tokens given for a password (etcd's "simple" tokens). Time is passed in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rand::seq::IndexedRandom;

/// A token unused for so long is forgotten (etcd's `--auth-token-ttl`, 300 s).
const TTL: Duration = Duration::from_secs(300);
/// Characters of a token's random part: more than 90 bits in letters.
const LENGTH: usize = 16;
const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Tokens kept at most; the one unused for longest goes first. A client needs one.
const MOST: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Tokens {
    by_token: HashMap<String, Token>,
    given: u64,
}

#[derive(Debug)]
struct Token {
    user: String,
    until: Instant,
}

impl Tokens {
    /// A new token for a user.
    pub(crate) fn give(&mut self, user: &str, now: Instant) -> String {
        self.by_token.retain(|_, token| token.until > now);
        if self.by_token.len() >= MOST {
            let oldest = self.by_token.iter().min_by_key(|(_, token)| token.until);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.by_token.remove(&oldest);
            }
        }
        self.given += 1;
        let mut random = rand::rng();
        let letters = (0..LENGTH).filter_map(|_| LETTERS.choose(&mut random).map(|c| char::from(*c)));
        let name = format!("{}.{}", letters.collect::<String>(), self.given);
        self.by_token.insert(name.clone(), Token { user: user.to_owned(), until: now + TTL });
        name
    }

    /// Whose token it is, if it is valid; using it prolongs it.
    pub(crate) fn user(&mut self, token: &str, now: Instant) -> Option<&str> {
        let token = self.by_token.get_mut(token).filter(|token| token.until > now)?;
        token.until = now + TTL;
        Some(&token.user)
    }

    /// Forgets the tokens of all users but these.
    pub(crate) fn keep(&mut self, valid: impl Fn(&str) -> bool) {
        self.by_token.retain(|_, token| valid(&token.user));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lives_as_long_as_it_is_used() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut tokens = Tokens::default();
        let (a, b) = (tokens.give("a", at(0)), tokens.give("b", at(0)));
        assert_eq!(tokens.user(&a, at(299)), Some("a"));
        assert_eq!(tokens.user(&b, at(300)), None, "unused for too long");
        assert_eq!(tokens.user(&a, at(598)), Some("a"));
        assert_eq!(tokens.user("x", at(598)), None);
        tokens.keep(|user| user != "a");
        assert_eq!(tokens.user(&a, at(598)), None);
    }

    #[test]
    fn no_more_than_so_many_are_kept() {
        let now = Instant::now();
        let mut tokens = Tokens::default();
        let first = tokens.give("first", now);
        for n in 1..=MOST as u64 {
            tokens.give("more", now + Duration::from_millis(n));
        }
        assert_eq!(tokens.by_token.len(), MOST);
        assert_eq!(tokens.user(&first, now), None);
    }
}
