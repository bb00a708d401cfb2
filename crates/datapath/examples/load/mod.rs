//! What drives the benchmarks of the datapath: exchanges on one core, timed.

#![allow(dead_code)]

pub(crate) mod rules;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// The core of single-core cases.
pub(crate) const CORE: usize = 1;

/// A connection that sends at once.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    // With a time-out of our own each would cost three system calls more.
    let stream = TcpStream::connect(address).expect("the pod answers");
    stream.set_nodelay(true).expect("a TCP option");
    stream
}

/// One byte there and back.
pub(crate) fn exchange(stream: &mut TcpStream) {
    let mut byte = *b"x";
    stream.write_all(&byte).expect("the peer is there");
    stream.read_exact(&mut byte).expect("the peer answers");
}

/// Microseconds each call takes, on average over `duration` after the warm-up.
pub(crate) fn per_exchange(warm_up: Duration, duration: Duration, mut call: impl FnMut()) -> f64 {
    let run = |limit: Duration, call: &mut dyn FnMut()| {
        let (start, mut count) = (Instant::now(), 0u64);
        while start.elapsed() < limit {
            (0..32).for_each(|_| call());
            count += 32;
        }
        start.elapsed().as_secs_f64() * 1e6 / count as f64
    };
    run(warm_up, &mut call);
    run(duration, &mut call)
}

/// Keeps the calling thread on the core of single-core cases.
pub(crate) fn pin(pinned: bool) {
    if pinned {
        let mut cores = CpuSet::new();
        // A machine with one core has no second one to pin to, and needs none.
        if cores.set(CORE).is_ok() && sched_setaffinity(Pid::from_raw(0), &cores).is_err() {
            eprintln!("core {CORE} cannot be pinned; running unpinned");
        }
    }
}
