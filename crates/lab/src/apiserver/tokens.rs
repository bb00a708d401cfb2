//! Bearer tokens: static ones, and those issued to service accounts: `<claims>.<signature>` in the shape of a JWT signed
//! with HMAC-SHA256, bound to the account's uid, so deleting the account ends them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::authn::User;
use super::object::text;
use super::options::{ApiServerOptions, StaticToken};
use super::{Api, storage};

/// Issuer of service account tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc";

/// The tokens a server accepts and issues.
pub struct Tokens {
    secret: Vec<u8>,
    fixed: Vec<StaticToken>,
}

impl Tokens {
    /// From the options.
    pub fn new(options: &ApiServerOptions) -> Self {
        Tokens { secret: options.token_secret.clone(), fixed: options.static_tokens.clone() }
    }

    /// Signs claims.
    pub fn sign(&self, claims: &Value) -> String {
        let header = B64.encode(json!({"alg": "HS256", "typ": "JWT"}).to_string());
        let signed = format!("{header}.{}", B64.encode(claims.to_string()));
        let signature = B64.encode(hmac_sha256(&self.secret, signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// The claims of a token that we signed and that has not expired.
    pub fn verify(&self, token: &str) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        let given = B64.decode(signature).ok()?;
        let want = hmac_sha256(&self.secret, signed.as_bytes());
        if !same(&given, &want) {
            return None;
        }
        let claims: Value = serde_json::from_slice(&B64.decode(signed.split_once('.')?.1).ok()?).ok()?;
        let expires = claims["exp"].as_i64().unwrap_or(i64::MAX);
        (expires > jiff::Timestamp::now().as_second()).then_some(claims)
    }
}

impl Api {
    /// The user a token stands for.
    pub fn authenticate_token(&self, token: &str) -> Option<User> {
        if let Some(t) = self.tokens.fixed.iter().find(|t| same(t.token.as_bytes(), token.as_bytes())) {
            return Some(User::new(&t.user, &t.groups));
        }
        let claims = self.tokens.verify(token)?;
        let account = &claims["kubernetes.io"];
        let (ns, name) = (text(account, "namespace"), text(account, "serviceaccount.name"));
        let stored = self.storage.get(&storage::key("core/serviceaccounts", ns, name)).ok()??;
        if text(&stored.value, "metadata.uid") != text(account, "serviceaccount.uid") {
            return None;
        }
        // A token bound to a pod ends with it.
        if let Some(pod) = account.get("pod") {
            let stored = self.storage.get(&storage::key("core/pods", ns, text(pod, "name"))).ok()??;
            if text(&stored.value, "metadata.uid") != text(pod, "uid") {
                return None;
            }
        }
        let groups = ["system:serviceaccounts".to_string(), format!("system:serviceaccounts:{ns}")];
        let mut user = User::new(&format!("system:serviceaccount:{ns}:{name}"), &groups);
        user.uid = text(account, "serviceaccount.uid").into();
        Some(user)
    }

    /// A token for a service account; `bound` is a `BoundObjectReference` or null. With the expiry, in Unix seconds.
    pub fn issue_token(
        &self,
        account: &Value,
        audiences: &Value,
        seconds: i64,
        bound: &Value,
    ) -> (String, i64) {
        let now = jiff::Timestamp::now().as_second();
        let (ns, name) = (text(account, "metadata.namespace"), text(account, "metadata.name"));
        let mut own = json!({
            "namespace": ns, "serviceaccount": {"name": name, "uid": text(account, "metadata.uid")},
        });
        if bound["kind"] == "Pod" {
            own["pod"] = json!({"name": bound["name"], "uid": bound["uid"]});
        }
        let audiences =
            if audiences.as_array().is_none_or(Vec::is_empty) { json!([ISSUER]) } else { audiences.clone() };
        let claims = json!({
            "iss": ISSUER, "sub": format!("system:serviceaccount:{ns}:{name}"), "aud": audiences, "iat": now,
            "nbf": now, "exp": now + seconds, "jti": super::object::new_uid(), "kubernetes.io": own,
        });
        (self.tokens.sign(&claims), now + seconds)
    }
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}

/// HMAC (RFC 2104) with SHA-256.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0u8; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |x: u8| block.map(|b| b ^ x);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_matches_rfc_4231() {
        let got: String = hmac_sha256(b"Jefe", b"what do ya want for nothing?")
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(got, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn tokens_round_trip_and_tampering_shows() {
        let t = Tokens { secret: b"k".to_vec(), fixed: Vec::new() };
        let token = t.sign(&json!({"sub": "a", "exp": jiff::Timestamp::now().as_second() + 9}));
        assert_eq!(t.verify(&token).unwrap()["sub"], "a");
        assert!(t.verify(&format!("{token}A")).is_none());
        assert!(t.verify(&t.sign(&json!({"exp": 1}))).is_none());
    }
}
