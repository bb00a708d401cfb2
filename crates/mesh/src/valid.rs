//! What a Kubernetes API server accepts of names, labels and addresses. Peers' texts end up in objects of
//! this cluster; one that would be refused must not keep the rest of its object from being written.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Most bytes of a name, a label's value or the name part of a label's key.
const MAX_NAME: usize = 63;
/// Most bytes of the prefix of a label's key.
const MAX_PREFIX: usize = 253;
/// Most bytes of all annotations of an object: Kubernetes' 256 KiB, less what others may add.
const MAX_ANNOTATIONS: usize = 200 << 10;

/// A DNS label: lower-case letters, digits and hyphens between them.
pub(crate) fn dns_label(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(good)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// The name of a service port: a DNS label, or none.
pub(crate) fn port_name(text: &str) -> bool {
    text.is_empty() || dns_label(text)
}

/// An application protocol: a label's key.
pub(crate) fn app_protocol(text: &str) -> bool {
    text.is_empty() || key(text)
}

/// An address that may be an endpoint: no loopback, link-local, multicast or unspecified one.
pub(crate) fn endpoint(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(link_local || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast())
}

/// Those of the labels that are labels.
pub(crate) fn labels(of: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let good = |(k, v): &(&String, &String)| key(k) && (v.is_empty() || name(v));
    of.iter().filter(good).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Those of the annotations that are annotations, in the order of their keys as far as there is room.
pub(crate) fn annotations(of: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut room = MAX_ANNOTATIONS;
    let good = |(k, v): &(&String, &String)| {
        let size = k.len() + v.len();
        let fits = key(&k.to_ascii_lowercase()) && size <= room;
        room -= if fits { size } else { 0 };
        fits
    };
    of.iter().filter(good).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// A label's key: a name, with a DNS subdomain and a slash before it or without.
fn key(text: &str) -> bool {
    match text.split_once('/') {
        None => name(text),
        Some((prefix, rest)) => {
            let parts = || prefix.split('.');
            prefix.len() <= MAX_PREFIX && parts().all(dns_label) && name(rest)
        }
    }
}

/// The value of a label, not empty: letters and digits, with hyphens, underscores and dots between them.
pub(crate) fn name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= MAX_NAME && bytes.iter().all(good) && outer(bytes.first()) && outer(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for good in ["a", "web-0", "0"] {
            assert!(dns_label(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &"a".repeat(64)] {
            assert!(!dns_label(bad), "{bad}");
        }
        for good in ["a", "A_b.c-d", "example.com/a", "kubernetes.io/h2c"] {
            assert!(key(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "Example.com/a", "a b", ".a", "a..b/c", &"a".repeat(64)] {
            assert!(!key(bad), "{bad}");
        }
    }

    #[test]
    fn addresses() {
        for good in ["10.0.0.1", "203.0.113.7", "fd00::1", "2001:db8::1"] {
            assert!(endpoint(good.parse().unwrap()), "{good}");
        }
        for bad in ["0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "::", "::1", "fe80::1", "ff02::1"] {
            assert!(!endpoint(bad.parse().unwrap()), "{bad}");
        }
    }

    #[test]
    fn what_is_refused_leaves_the_rest() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
        };
        let mixed = map(&[("a", "b"), ("a b", "c"), ("c", "d e"), ("e", ""), ("x.io/Y", "z")]);
        assert_eq!(labels(&mixed), map(&[("a", "b"), ("e", ""), ("x.io/Y", "z")]));
        assert_eq!(annotations(&mixed), map(&[("a", "b"), ("c", "d e"), ("e", ""), ("x.io/Y", "z")]));
        let large = map(&[("a", &"x".repeat(MAX_ANNOTATIONS)), ("b", "y")]);
        assert_eq!(annotations(&large), map(&[("b", "y")]));
    }
}
