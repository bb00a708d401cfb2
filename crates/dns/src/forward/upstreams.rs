//! Which server is asked first. Pure: time is an argument.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A server that did not answer comes last for so long.
const REST: Duration = Duration::from_secs(10);

/// Servers in the order they are preferred in.
#[derive(Debug, Default)]
pub(super) struct Upstreams {
    /// Each with the time it last failed.
    servers: Vec<(SocketAddr, Option<Instant>)>,
}

impl Upstreams {
    /// Takes another list; what is known of servers that are in both stays.
    pub(super) fn replace(&mut self, list: &[SocketAddr]) {
        let known = std::mem::take(&mut self.servers);
        let failed = |server| known.iter().find(|(other, _)| other == server).and_then(|(_, failed)| *failed);
        self.servers = list.iter().map(|server| (*server, failed(server))).collect();
    }

    /// The list as it was given.
    pub(super) fn list(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|(server, _)| *server).collect()
    }

    /// In which order to ask.
    pub(super) fn order(&self, now: Instant) -> Vec<SocketAddr> {
        let rests = |failed: &Option<Instant>| failed.is_some_and(|at| now.duration_since(at) < REST);
        let (tired, well): (Vec<_>, Vec<_>) = self.servers.iter().partition(|(_, failed)| rests(failed));
        well.into_iter().chain(tired).map(|&(server, _)| server).collect()
    }

    /// A server answered, or did not.
    pub(super) fn note(&mut self, server: SocketAddr, answered: bool, now: Instant) {
        if let Some((_, failed)) = self.servers.iter_mut().find(|(other, _)| *other == server) {
            *failed = (!answered).then_some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_comes_last_for_a_while() {
        let [a, b, c] = [1, 2, 3].map(|n| SocketAddr::from(([10, 0, 0, n], 53)));
        let (mut upstreams, start) = (Upstreams::default(), Instant::now());
        upstreams.replace(&[a, b]);
        assert_eq!(upstreams.order(start), [a, b]);
        upstreams.note(a, false, start);
        assert_eq!(upstreams.order(start), [b, a]);
        upstreams.replace(&[a, c]);
        assert_eq!(upstreams.order(start + REST / 2), [c, a]);
        assert_eq!(upstreams.order(start + REST), [a, c], "it gets another chance");
        upstreams.note(a, true, start);
        assert_eq!(upstreams.order(start), [a, c]);
        upstreams.note(b, false, start);
        assert_eq!(upstreams.list(), [a, c]);
    }
}
