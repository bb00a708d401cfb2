//! The name servers of a `resolv.conf`. Pure.

use std::net::{IpAddr, SocketAddr};

/// Port of name servers.
const PORT: u16 = 53;

/// The name servers in order, each once; lines that name no address are skipped, as resolvers do.
pub fn nameservers(text: &str) -> Vec<SocketAddr> {
    let mut servers = vec![];
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // The scope of a link-local address means nothing in another network namespace.
        let address = words.next().and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok());
        if let Some(server) = address.map(|ip| SocketAddr::new(ip.to_canonical(), PORT))
            && !servers.contains(&server)
        {
            servers.push(server);
        }
    }
    servers
}

/// Servers as a setting names them: addresses with or without a port, between commas or blanks.
///
/// # Errors
/// The word that is no address.
pub fn parse_list(text: &str) -> Result<Vec<SocketAddr>, String> {
    let words = text.split([',', ' ', '\n']).filter(|word| !word.is_empty());
    let parse = |word: &str| {
        let with_port = word.parse::<SocketAddr>().ok();
        with_port
            .or_else(|| Some(SocketAddr::new(word.parse().ok()?, PORT)))
            .ok_or_else(|| format!("{word:?} is no IP address, with or without a port"))
    };
    words.map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_resolvers_read() {
        let text = "# a\nnameserver 10.0.0.2\n nameserver\tfd00::53 x\nnameserver fe80::1%eth0\nnameserver nonsense\n\
                    nameserver\nsearch corp\nnameserver 10.0.0.2\nnameservers 1.1.1.1\n";
        let found: Vec<_> = nameservers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.2:53", "[fd00::53]:53", "[fe80::1]:53"]);
    }

    #[test]
    fn a_list() {
        let found = parse_list("10.0.0.2, [fd00::1]:5353\nfd00::2").unwrap();
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.2:53", "[fd00::1]:5353", "[fd00::2]:53"]);
        assert!(parse_list("").unwrap().is_empty());
        assert!(parse_list("10.0.0.2,dns.example").unwrap_err().contains("dns.example"));
    }
}
