//! The pause before a container is started again.

use std::time::Duration;

use jiff::Timestamp;

/// The pause after the second crash; it doubles with each further one. Kubernetes' numbers.
const FIRST: Duration = Duration::from_secs(10);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(300);

/// Back-off of one container: none after the first end, then 10 s doubling up to 5 minutes, forgotten after a run twice as
/// long as the longest pause.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Backoff {
    pause: Duration,
}

impl Backoff {
    /// Notes a run.
    pub(super) fn ran(&mut self, started: Timestamp, finished: Timestamp) {
        let lasted = Duration::try_from(finished.duration_since(started)).unwrap_or_default();
        if lasted >= LONGEST * 2 {
            self.pause = Duration::ZERO;
        }
    }

    /// The pause before the next start.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// Notes that the container is started again.
    pub(super) fn restarted(&mut self) {
        self.pause = if self.pause.is_zero() { FIRST } else { (self.pause * 2).min(LONGEST) };
    }
}

/// A pause as Kubernetes prints it: `10s`, `1m20s`, `5m0s`.
pub(super) fn show(pause: Duration) -> String {
    match (pause.as_secs() / 60, pause.as_secs() % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    }
}
