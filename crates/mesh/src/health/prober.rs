//! The task around [`Monitor`]: clock, sockets, and whoever wants to know.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_model::{ClusterName, Event};
use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::http::{self, HTTP_AT_ONCE, Outcome};
use super::icmp::{Icmp, Sent};
use super::{Kind, Monitor, Probe, ProbeId, Reachability, Report, Target, Way};

/// What is due within this time is done together.
const TOGETHER: Duration = Duration::from_millis(5);
/// How often the report is made anew.
const REPORT: Duration = Duration::from_secs(1);
/// How often the routes are looked at for gateways.
const GATEWAYS: Duration = Duration::from_secs(30);
/// Answers taken in one turn, before the timers get theirs.
const TURN: usize = 1024;

/// What a prober is told.
#[derive(Debug)]
pub enum Input {
    /// A change of the nodes of a cluster; of our own too.
    Node(ClusterName, Event<Target>),
    /// A cluster is no longer a peer.
    Removed(ClusterName),
}

/// Where it tells what it finds out.
pub struct Outputs {
    /// Nodes that become unreachable, or reachable again.
    pub changes: mpsc::UnboundedSender<Vec<Reachability>>,
    /// Everything, once a second and at every change.
    pub report: watch::Sender<Arc<Report>>,
    /// Called with how long each answer took.
    pub measured: Box<dyn Fn(Way, Kind, Duration) + Send>,
    /// Called when a node has fallen or come back, with what the next process should remember.
    pub remember: Box<dyn Fn(&Monitor) + Send>,
}

impl std::fmt::Debug for Outputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outputs").finish_non_exhaustive()
    }
}

/// Sends the probes of a [`Monitor`].
#[derive(Debug)]
pub struct Prober {
    monitor: Monitor,
    port: u16,
    v4: Option<Icmp>,
    v6: Option<Icmp>,
    at_once: Arc<Semaphore>,
    done: mpsc::UnboundedSender<(ProbeId, Outcome)>,
    results: mpsc::UnboundedReceiver<(ProbeId, Outcome)>,
}

impl Prober {
    /// Opens the sockets, in the network namespace of the calling thread. Without a family's ICMP socket its nodes are
    /// asked over HTTP alone. `port` is [`super::PORT`], or what all nodes have agreed on.
    pub fn open(monitor: Monitor, port: u16, nonce: u64) -> Self {
        let icmp = |v6: bool| {
            let refused = |error: &std::io::Error| {
                let family = if v6 { "IPv6" } else { "IPv4" };
                tracing::warn!(%error, family, "no ICMP socket (CAP_NET_RAW?); nodes are asked over HTTP alone");
            };
            Icmp::open(v6, nonce).inspect_err(refused).ok()
        };
        let (v4, v6) = (icmp(false), icmp(true));
        let (done, results) = mpsc::unbounded_channel();
        Self { monitor, port, v4, v6, at_once: Arc::new(Semaphore::new(HTTP_AT_ONCE)), done, results }
    }

    /// Probes until `shutdown`, or until nobody tells it of nodes any more.
    pub async fn run(
        mut self,
        mut inputs: mpsc::UnboundedReceiver<Input>,
        outputs: Outputs,
        shutdown: CancellationToken,
    ) {
        let mut report = interval(REPORT);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut routes = interval(GATEWAYS);
        let mut polled = Instant::now();
        loop {
            let due = self.monitor.next().map(|at| at.max(polled + TOGETHER));
            let mut publish = false;
            // Answers come before timers: what has arrived is not lost.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                (from, probe) = receive(&self.v4) => self.answered(probe, from, &outputs),
                (from, probe) = receive(&self.v6) => self.answered(probe, from, &outputs),
                Some((probe, outcome)) = self.results.recv() => self.finished(probe, outcome, &outputs),
                input = inputs.recv() => match input {
                    Some(input) => self.told(input),
                    None => return,
                },
                _ = routes.tick() => self.monitor.set_gateways(gateways()),
                _ = report.tick() => publish = true,
                () = sleep_until(due.unwrap_or_else(|| polled + REPORT).into()) => {}
            }
            self.take_arrived(&outputs);
            let now = Instant::now();
            if due.is_some_and(|due| due <= now) {
                polled = now;
                for probe in self.monitor.poll(now) {
                    self.send(probe, now);
                }
            }
            let changes = self.monitor.take_changes();
            if !changes.is_empty() {
                publish = true;
                changes.iter().for_each(log);
                (outputs.remember)(&self.monitor);
                // Who does not listen any more is about to end, and so are we.
                let _ = outputs.changes.send(changes);
            }
            if publish {
                outputs.report.send_replace(Arc::new(self.monitor.report(now, Timestamp::now())));
            }
        }
    }

    fn told(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Node(cluster, event) => self.monitor.apply(&cluster, event, now),
            Input::Removed(cluster) => self.monitor.remove_cluster(&cluster, now),
        }
    }

    /// Everything that has arrived meanwhile, up to a bound.
    fn take_arrived(&mut self, outputs: &Outputs) {
        for _ in 0..TURN {
            let icmp = [&self.v4, &self.v6].into_iter().flatten().find_map(Icmp::try_receive);
            match icmp {
                Some((from, probe)) => self.answered(probe, from, outputs),
                None => break,
            }
        }
        for _ in 0..TURN {
            let Ok((probe, outcome)) = self.results.try_recv() else { break };
            self.finished(probe, outcome, outputs);
        }
    }

    fn answered(&mut self, probe: ProbeId, from: IpAddr, outputs: &Outputs) {
        if self.monitor.is_from(probe, from) {
            self.finished(probe, Outcome::Answered(Instant::now(), None), outputs);
        }
    }

    fn finished(&mut self, probe: ProbeId, outcome: Outcome, outputs: &Outputs) {
        match outcome {
            Outcome::Answered(at, fault) => {
                if let Some((way, kind, took)) = self.monitor.answered(probe, fault, at) {
                    (outputs.measured)(way, kind, took);
                }
            }
            Outcome::NoRoom => self.monitor.not_sent(probe, Instant::now()),
            Outcome::Failed(why) => self.monitor.failed(probe, why),
        }
    }

    fn send(&mut self, probe: Probe, now: Instant) {
        let Probe { id, to, kind, timeout } = probe;
        if kind == Kind::Http {
            let Ok(place) = self.at_once.clone().try_acquire_owned() else {
                return self.monitor.not_sent(id, now);
            };
            let (done, to) = (self.done.clone(), SocketAddr::new(to, self.port));
            tokio::spawn(async move {
                let outcome = http::ask(to, timeout).await;
                drop(place);
                // Without a prober nobody wants to know.
                let _ = done.send((id, outcome));
            });
            return;
        }
        let socket = if to.is_ipv6() { &self.v6 } else { &self.v4 };
        match socket.as_ref().map(|socket| socket.send(to, id)) {
            Some(Sent::Yes) => {}
            Some(Sent::NoRoom) => self.monitor.not_sent(id, now),
            Some(Sent::Refused(error)) => self.monitor.failed(id, error.desc().to_owned()),
            None => self.monitor.failed(id, "this agent has no ICMP socket".to_owned()),
        }
    }
}

/// The next answer; never where there is no socket.
async fn receive(icmp: &Option<Icmp>) -> (IpAddr, ProbeId) {
    loop {
        let Some(icmp) = icmp else { return std::future::pending().await };
        match icmp.receive().await {
            Ok(answer) => return answer,
            // Errors of single packets, as ICMP errors that came for them.
            Err(error) => tracing::trace!(%error, "an ICMP socket has an error"),
        }
    }
}

fn log(change: &Reachability) {
    let (cluster, node) = (&change.node.cluster, &change.node.name);
    match change.reachable {
        true => tracing::info!(%cluster, node, "the node answers again: its pods take new connections"),
        false => tracing::warn!(%cluster, node, "the node does not answer: its pods take no new connections"),
    }
}

/// The gateways of the default routes of the calling thread's network namespace.
fn gateways() -> Vec<IpAddr> {
    let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    let v4 = read("route");
    let v6 = read("ipv6_route");
    let mut all: Vec<IpAddr> = v4.lines().filter_map(gateway_v4).map(IpAddr::V4).collect();
    all.extend(v6.lines().filter_map(gateway_v6).map(IpAddr::V6));
    all.sort_unstable();
    all.dedup();
    // More would make a question to witnesses a burst.
    all.truncate(4);
    all
}

/// Of a line of `/proc/net/route`: interface, destination, gateway, flags, three numbers, mask, all in the
/// machine's order of bytes.
fn gateway_v4(line: &str) -> Option<Ipv4Addr> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok();
    let (to, gateway, mask) = (number(1)?, number(2)?, number(7)?);
    (to == 0 && mask == 0 && gateway != 0).then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
}

/// Of a line of `/proc/net/ipv6_route`: destination, its length, source, its length, next hop.
fn gateway_v6(line: &str) -> Option<Ipv6Addr> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| u128::from_str_radix(words.get(at)?, 16).ok();
    let gateway = Ipv6Addr::from(number(4)?);
    let default = number(0)? == 0 && number(1)? == 0;
    // A link-local next hop would need its interface.
    (default && !gateway.is_unspecified() && !gateway.is_unicast_link_local()).then_some(gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_of_the_kernels_tables() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                  eth0\t00000000\t010014AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                  eth0\t000014AC\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let found: Vec<Ipv4Addr> = v4.lines().filter_map(gateway_v4).collect();
        let expected = Ipv4Addr::from(0x0100_14AC_u32.to_ne_bytes());
        assert_eq!(found, [expected]);
        let zero = "0".repeat(32);
        let line = |to: &str, via: &str| format!("{to} 00 {zero} 00 {via} 00000400 1 0 00000003 eth0");
        let via = |via: u128| line(&zero, &format!("{via:032x}"));
        let of = |ip: &str| u128::from(ip.parse::<Ipv6Addr>().unwrap());
        assert_eq!(gateway_v6(&via(of("fd00::1"))), Some("fd00::1".parse().unwrap()));
        assert_eq!(gateway_v6(&via(of("fe80::1"))), None);
        assert_eq!(gateway_v6(&via(0)), None);
    }
}
