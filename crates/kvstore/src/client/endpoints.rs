//! Which endpoint to use next, and which not yet again. Pure; time and chance are passed in.

use std::time::{Duration, Instant};

/// The wait after a first failure; it doubles with each further one.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait. Shorter than it takes etcd's members to notice that one of them is back.
const LONGEST: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Endpoint {
    failures: u32,
    /// Not to be tried before.
    until: Option<Instant>,
}

/// The endpoints of a cluster, by their place in the configuration.
#[derive(Debug)]
pub(super) struct Endpoints(Vec<Endpoint>);

impl Endpoints {
    pub(super) fn new(count: usize) -> Self {
        Self((0..count).map(|_| Endpoint { failures: 0, until: None }).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The endpoint to try now: of those that may be tried, the one with the fewest failures, the
    /// first of these from `from` on. When none may be tried, when the first may; `None` when there
    /// are none.
    pub(super) fn pick(&self, now: Instant, from: usize) -> Option<Result<usize, Instant>> {
        let count = self.0.len();
        let order = (0..count).map(|n| (from + n) % count);
        let may = order.filter(|n| self.0[*n].until.is_none_or(|until| until <= now));
        match may.min_by_key(|n| self.0[*n].failures) {
            Some(n) => Some(Ok(n)),
            None => self.0.iter().filter_map(|endpoint| endpoint.until).min().map(Err),
        }
    }

    /// It could not be reached, or it could not answer. `chance` in `[0, 1)` spreads the waits of
    /// many clients between half and the whole.
    pub(super) fn failed(&mut self, n: usize, now: Instant, chance: f64) {
        let endpoint = &mut self.0[n];
        let wait = (FIRST * 2u32.saturating_pow(endpoint.failures.min(16))).min(LONGEST);
        endpoint.failures = endpoint.failures.saturating_add(1);
        endpoint.until = Some(now + wait.mul_f64(0.5 + chance / 2.0));
    }

    /// It has answered.
    pub(super) fn worked(&mut self, n: usize) {
        self.0[n] = Endpoint { failures: 0, until: None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_one_is_one_that_works() {
        let start = Instant::now();
        let mut endpoints = Endpoints::new(3);
        assert_eq!(endpoints.pick(start, 1), Some(Ok(1)));
        endpoints.failed(1, start, 0.0);
        assert_eq!(endpoints.pick(start, 1), Some(Ok(2)));
        endpoints.failed(2, start, 0.5);
        endpoints.failed(0, start, 0.99);
        // None may be tried; the first again is the one whose wait was shortest.
        assert_eq!(endpoints.pick(start, 0), Some(Err(start + FIRST / 2)));
        let later = start + FIRST;
        assert_eq!(endpoints.pick(later, 0), Some(Ok(0)));
        endpoints.failed(0, later, 0.0);
        endpoints.worked(2);
        assert_eq!(endpoints.pick(later + LONGEST, 0), Some(Ok(2)), "no failures before one, one before two");
        assert_eq!(Endpoints::new(0).pick(start, 0), None);
    }

    #[test]
    fn waits_grow_and_end_growing() {
        let start = Instant::now();
        let mut endpoints = Endpoints::new(1);
        let mut waits = Vec::new();
        for _ in 0..40 {
            endpoints.failed(0, start, 1.0);
            waits.push(endpoints.pick(start, 0).unwrap().unwrap_err() - start);
        }
        assert_eq!(waits[..3], [FIRST, 2 * FIRST, 4 * FIRST]);
        assert_eq!(waits[39], LONGEST);
        assert!(waits.is_sorted());
    }
}
