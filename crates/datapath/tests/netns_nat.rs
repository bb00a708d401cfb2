//! The ports of source NAT when there are too few: who has one keeps it, who gets none is counted, and
//! who is done makes room without anybody's help.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use causeway_datapath::NodePorts;
use causeway_model::Protocol;
use common::vpc::{DEADLINE, Pair, address, apply, ask, counted, line, node_port};

/// As many ports as there are.
const PORTS: usize = 8;
const NO_PORT: &str = "no mapping for nat";

/// A connection from outside, or why there is none.
fn connect(net: &Pair, to: SocketAddr, limit: Duration) -> std::io::Result<TcpStream> {
    net.client.ns.run(move || {
        let mut stream = TcpStream::connect_timeout(&to, limit)?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        line(&mut stream);
        Ok(stream)
    })
}

/// Nobody answers an attempt, so it is given up soon.
fn no_room(net: &Pair, to: SocketAddr) {
    let refused = connect(net, to, Duration::from_millis(500)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TimedOut);
}

fn lives(mut stream: &TcpStream) {
    stream.write_all(b"still there?").unwrap();
    let mut back = [0; 12];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still there?");
}

#[test]
fn netns_without_a_free_port_new_flows_end_and_old_ones_live() {
    let mut net = Pair::with("ports", |node| {
        // What is left between these and the lowest are the eight.
        node.ns.run(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1032 60000").unwrap());
        node.config.balance.node_ports = NodePorts(60001..=65535);
    });
    let mut open = [false, true].map(|v6| {
        apply(&mut net.a, node_port(v6, &[(net.remote.address(v6), 8080).into()]));
        let to = SocketAddr::new(address(&net.a, v6), 30080);
        // Ports are each protocol's own; and the neighbours are known after this.
        assert_eq!(ask(&net.client.ns, Protocol::UDP, to, PORTS).values().sum::<usize>(), PORTS);
        let before = net.a.datapath(|d| counted(d, NO_PORT));
        let open: Vec<_> = (0..PORTS).map(|_| connect(&net, to, DEADLINE).unwrap()).collect();
        assert_eq!(net.a.datapath(|d| counted(d, NO_PORT)), before);
        (0..3).for_each(|_| no_room(&net, to));
        assert!(net.a.datapath(|d| counted(d, NO_PORT)) >= before + 3);
        open.iter().for_each(lives);
        (to, open)
    });
    // One ends: after a while there is room for one, though nobody has collected anything. The attempt is made again
    // and again by the client's kernel.
    open.iter_mut().for_each(|(_, open)| drop(open.pop()));
    for (to, open) in &mut open {
        open.push(connect(&net, *to, 2 * DEADLINE).unwrap());
        no_room(&net, *to);
        open.iter().for_each(lives);
    }
}
