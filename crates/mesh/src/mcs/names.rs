//! Names of the multi-cluster services API that clusters must agree on.

use causeway_model::ServiceKey;
use sha2::{Digest, Sha256};

/// Annotation by which the derived Services of all clusters are one.
pub const GLOBAL: &str = "service.cilium.io/global";

/// The name of the derived Service, the same in every cluster.
pub fn derived_name(key: &ServiceKey) -> String {
    format!("derived-{}", &base32hex(&Sha256::digest(key.to_string()))[..10])
}

/// Base 32 with the alphabet 0-9a-v, without padding.
pub(crate) fn base32hex(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    let (mut out, mut held, mut bits) = (String::new(), 0u32, 0);
    for byte in bytes {
        (held, bits) = (held << 8 | u32::from(*byte), bits + 8);
        while bits >= 5 {
            bits -= 5;
            out.push(ALPHABET[(held >> bits & 31) as usize].into());
        }
        held &= (1 << bits) - 1;
    }
    if bits > 0 {
        out.push(ALPHABET[(held << (5 - bits) & 31) as usize].into());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32() {
        // RFC 4648, section 10, in lower case and without padding.
        for (text, wanted) in [("", ""), ("f", "co"), ("fo", "cpng"), ("foobar", "cpnmuoj1e8")] {
            assert_eq!(base32hex(text.as_bytes()), wanted);
        }
    }

    #[test]
    fn every_cluster_finds_the_same_name() {
        let key = ServiceKey { namespace: "shop".into(), name: "cart".into() };
        assert_eq!(derived_name(&key), "derived-bsqa4s8pq5");
    }
}
