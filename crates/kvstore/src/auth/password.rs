//! Passwords, as they are kept: PBKDF2-HMAC-SHA-256 with a salt of their own.

use std::num::NonZeroU32;

use ring::pbkdf2::{self, PBKDF2_HMAC_SHA256};
use serde::{Deserialize, Serialize};

/// Rounds for new passwords: about the work of etcd's bcrypt at its default cost of 10, so that a
/// login costs what an operator of etcd is used to.
const ROUNDS: u32 = 200_000;

/// What a password is recognised by. It cannot be turned back into the password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordHash {
    rounds: u32,
    salt: [u8; 16],
    hash: [u8; 32],
}

impl PasswordHash {
    /// Hashes a new password. Takes tens of milliseconds of computing: not for an async task.
    pub fn new(password: &str) -> Self {
        let mut kept = Self { rounds: ROUNDS, salt: rand::random(), hash: [0; 32] };
        let mut hash = [0; 32];
        pbkdf2::derive(PBKDF2_HMAC_SHA256, kept.rounds(), &kept.salt, password.as_bytes(), &mut hash);
        kept.hash = hash;
        kept
    }

    /// Whether it is this password. As much work as [`PasswordHash::new`].
    pub fn verify(&self, password: &str) -> bool {
        pbkdf2::verify(PBKDF2_HMAC_SHA256, self.rounds(), &self.salt, password.as_bytes(), &self.hash).is_ok()
    }

    fn rounds(&self) -> NonZeroU32 {
        NonZeroU32::new(self.rounds).unwrap_or(NonZeroU32::MIN)
    }
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_itself_is_recognised() {
        let (one, other) = (PasswordHash::new("s3cret"), PasswordHash::new("s3cret"));
        assert!(one.verify("s3cret") && other.verify("s3cret"));
        assert!(!one.verify("s3cre") && !one.verify(""));
        assert_ne!(one, other, "the salt differs");
        let kept: PasswordHash = serde_json::from_str(&serde_json::to_string(&one).unwrap()).unwrap();
        assert!(kept.verify("s3cret"));
    }
}
