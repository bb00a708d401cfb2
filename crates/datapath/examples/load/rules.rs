//! The rules of kube-proxy in its two manners, for the anchors of the benchmarks of services.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

/// The services that rules are for: one that is asked, at port 80, and others that nobody asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// How many there are.
    pub(crate) services: u32,
    /// `tcp` or `udp`.
    pub(crate) protocol: &'static str,
    /// The one that is asked.
    pub(crate) service: Ipv4Addr,
    /// Address of one of the others.
    pub(crate) other: fn(u32) -> Ipv4Addr,
    /// How many backends it has.
    pub(crate) backends: u16,
    /// One of them.
    pub(crate) backend: fn(u16) -> SocketAddr,
    /// Clients are outside: their flows are marked, and leave with the node's address as source, as for a
    /// service whose external traffic policy is `Cluster`.
    pub(crate) outside: bool,
}

impl Rules {
    /// As kube-proxy writes them for nftables, and lets the kernel have them: one verdict map of all services,
    /// one chain for each and one for each backend. Services nobody asks share a chain, which no packet
    /// notices.
    pub(crate) fn nft(&self) {
        let Self { services, protocol, service, other, backends, backend, outside } = *self;
        let mut text = String::from("table ip kube-proxy {\n");
        let line =
            |text: &mut String, line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("memory");
        for n in 0..backends {
            let to = backend(n);
            line(&mut text, format_args!("chain ep-{n} {{ meta l4proto {protocol} dnat to {to}; }}"));
        }
        let vmap: Vec<_> = (0..backends).map(|n| format!("{n} : goto ep-{n}")).collect();
        let mark = if outside { "meta mark set meta mark or 0x4000; " } else { "" };
        line(
            &mut text,
            format_args!(
                "chain svc {{ {mark}numgen random mod {backends} vmap {{ {} }}; }}",
                vmap.join(", ")
            ),
        );
        let first = backend(0);
        line(&mut text, format_args!("chain other {{ meta l4proto {protocol} dnat to {first}; }}"));
        line(
            &mut text,
            format_args!("map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict"),
        );
        let mut elements = vec![format!("{service} . {protocol} . 80 : goto svc")];
        elements.extend((1..services).map(|n| format!("{} . {protocol} . 80 : goto other", other(n))));
        line(&mut text, format_args!("elements = {{ {} }}\n}}", elements.join(",\n")));
        text += "chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
chain nat-postrouting { type nat hook postrouting priority srcnat; meta mark & 0x4000 == 0x4000 masquerade; }
}\n";
        feed("nft", &["-f", "-"], &text);
    }

    /// The same as it writes them for iptables: one chain with a rule for each service, in which the one that
    /// is asked is in the middle; one chain for each service and one for each backend.
    pub(crate) fn iptables(&self) {
        let Self { services, protocol, service, other, backends, backend, outside } = *self;
        let dnat = format!("-p {protocol} -m {protocol} -j DNAT --to-destination");
        let mut text = String::from("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC - [0:0]\n:KUBE-OTHER - [0:0]\n");
        let line =
            |text: &mut String, line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("memory");
        (0..backends).for_each(|n| line(&mut text, format_args!(":KUBE-SEP-{n} - [0:0]")));
        line(&mut text, format_args!("-A PREROUTING -j KUBE-SERVICES"));
        if outside {
            line(&mut text, format_args!("-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE"));
            line(&mut text, format_args!("-A KUBE-SVC -j MARK --or-mark 0x4000"));
        }
        for n in 0..services {
            let (ip, chain) =
                if n == services / 2 { (service, "KUBE-SVC") } else { (other(n), "KUBE-OTHER") };
            let port = format!("-p {protocol} -m {protocol} --dport 80");
            line(&mut text, format_args!("-A KUBE-SERVICES -d {ip}/32 {port} -j {chain}"));
        }
        for n in 0..backends {
            let choice = match backends - n {
                1 => String::new(),
                left => format!("-m statistic --mode random --probability {:.10} ", 1.0 / f64::from(left)),
            };
            line(&mut text, format_args!("-A KUBE-SVC {choice}-j KUBE-SEP-{n}"));
            line(&mut text, format_args!("-A KUBE-SEP-{n} {dnat} {}", backend(n)));
        }
        line(&mut text, format_args!("-A KUBE-OTHER {dnat} {}\nCOMMIT", backend(0)));
        feed("iptables-legacy-restore", &["--noflush"], &text);
    }
}

/// Hands rules to a program.
fn feed(program: &str, args: &[&str], rules: &str) {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    child.stdin.take().expect("it was asked for").write_all(rules.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "{program} refused the rules");
}
