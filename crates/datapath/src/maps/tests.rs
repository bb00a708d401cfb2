//! Holds the Rust layouts against the BTF of the objects: what the C compiler made of each struct.

use std::mem::{offset_of, size_of};

use super::endpoint::Endpoint;
use super::flow::{CtEntry, NatEntry, Tuple};
use super::ipcache::{Prefix, Remote};
use super::lb::{Affinity, Client, Flow, Frontend, L4, Match, Slot, SourceRange, TableKey};
use super::metrics::{Key, Value};
use super::*;

/// Size and member offsets of a struct, read from an object's `.BTF` section.
fn layout(object: &[u8], name: &str) -> (usize, Vec<(String, usize)>) {
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let btf = section(object, ".BTF");
    let header = word(btf, 4);
    let (types, strings) = (header + word(btf, 8), header + word(btf, 16));
    let text = |at: usize| {
        let bytes = &btf[strings + at..];
        String::from_utf8(bytes[..bytes.iter().position(|b| *b == 0).unwrap()].to_vec()).unwrap()
    };
    let (mut at, end) = (types, types + word(btf, 12));
    while at < end {
        let (info, size) = (word(btf, at + 4), word(btf, at + 8));
        let (kind, count) = ((info >> 24) & 0x1f, info & 0xffff);
        let body = at + 12;
        if kind == 4 && text(word(btf, at)) == name {
            let member =
                |n: usize| (text(word(btf, body + n * 12)), (word(btf, body + n * 12 + 8) & 0xff_ffff) / 8);
            return (size, (0..count).map(member).collect());
        }
        // Bytes after the common part, by kind (Documentation/bpf/btf.rst).
        at = body
            + match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                4 | 5 => count * 12,
                6 => count * 8,
                13 => count * 8,
                15 => count * 12,
                19 => count * 12,
                _ => 0,
            };
    }
    panic!("there is no struct {name} in the object");
}

fn section<'a>(elf: &'a [u8], wanted: &str) -> &'a [u8] {
    let long = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap()) as usize;
    let half = |at: usize| u16::from_le_bytes(elf[at..at + 2].try_into().unwrap()) as usize;
    let (table, entry, count, names) = (long(0x28), half(0x3a), half(0x3c), half(0x3e));
    let at = |n: usize| (long(table + n * entry + 0x18), long(table + n * entry + 0x20));
    let names = at(names).0;
    for n in 0..count {
        let name = names + u32::from_le_bytes(elf[table + n * entry..][..4].try_into().unwrap()) as usize;
        if elf[name..].starts_with(wanted.as_bytes()) && elf[name + wanted.len()] == 0 {
            let (offset, size) = at(n);
            return &elf[offset..offset + size];
        }
    }
    panic!("the object has no section {wanted}");
}

macro_rules! same {
    ($object:expr, $c:literal, $rust:ty, $($member:ident = $field:ident),+) => {{
        let (size, members) = layout($object, $c);
        assert_eq!(size, size_of::<$rust>(), "size of struct {}", $c);
        $(
            let at = members.iter().find(|(name, _)| name == stringify!($member));
            assert_eq!(at.map(|(_, at)| *at), Some(offset_of!($rust, $field)), "{}.{}", $c, stringify!($member));
        )+
    }};
}

#[test]
fn layouts_are_those_of_the_kernel_half() {
    use crate::acceleration::Device;
    use crate::object::{HOST, LXC, SOCK, XDP};
    same!(LXC, "address", Address, family = family, word = bytes);
    same!(LXC, "prefix", Prefix, bits = bits, address = address);
    same!(
        LXC,
        "remote",
        Remote,
        identity = identity,
        tunnel_endpoint = tunnel_endpoint,
        key_index = key_index
    );
    same!(
        LXC,
        "endpoint",
        Endpoint,
        ifindex = ifindex,
        identity = identity,
        ip4 = ip4,
        ip6 = ip6,
        id = id,
        mac = mac,
        host_mac = host_mac
    );
    same!(LXC, "metric_key", Key, reason = reason, direction = direction);
    same!(LXC, "metric", Value, packets = packets, bytes = bytes);
    same!(SOCK, "l4", L4, address = address, port = port, protocol = protocol, scope = scope);
    same!(
        SOCK,
        "frontend",
        Frontend,
        service = service,
        generation = generation,
        count = count,
        version = version,
        entries = entries,
        affinity = affinity,
        kind = kind,
        flags = flags
    );
    same!(
        HOST,
        "tuple",
        Tuple,
        src = src,
        dst = dst,
        sport = sport,
        dport = dport,
        family = family,
        protocol = protocol,
        flags = flags
    );
    same!(
        HOST,
        "ct_entry",
        CtEntry,
        address = address,
        port = port,
        flags = flags,
        expires = expires,
        service = service,
        identity = identity,
        origin_seen = origin_seen,
        reply_seen = reply_seen,
        nat_port = nat_port
    );
    same!(
        HOST,
        "nat_entry",
        NatEntry,
        client = client,
        frontend = frontend,
        client_port = client_port,
        frontend_port = frontend_port,
        expires = expires
    );
    same!(XDP, "device", Device, mac = mac);
    same!(SOCK, "slot", Slot, service = service, generation = generation, index = index);
    same!(SOCK, "table", TableKey, service = service, generation = generation);
    same!(SOCK, "client", Client, address = address, service = service);
    same!(SOCK, "affinity", Affinity, last = last, backend = backend);
    same!(SOCK, "match", Match, backend = backend, service = service);
    same!(SOCK, "flow", Flow, cookie = cookie, backend = backend);
    // The trie's key: the number of bits, and then ours.
    let (size, members) = layout(SOCK, "source_range");
    let at = |name: &str| members.iter().find(|(member, _)| member == name).unwrap().1 - size_of::<u32>();
    assert_eq!(size - size_of::<u32>(), size_of::<SourceRange>());
    assert_eq!(at("service"), offset_of!(SourceRange, service));
    assert_eq!(at("generation"), offset_of!(SourceRange, generation));
    assert_eq!(at("address"), offset_of!(SourceRange, address));
}

#[test]
fn addresses_survive_the_round_trip() {
    for ip in ["10.1.2.3", "fd00::1"] {
        let ip: IpAddr = ip.parse().unwrap();
        assert_eq!(Address::from(ip).ip(), Some(ip));
    }
}
