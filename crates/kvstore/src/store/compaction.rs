//! When to compact by itself, and up to where (etcd's `--auto-compaction-mode` and `-retention`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Store;

/// How often the revision mode looks (etcd's interval).
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
/// The periodic mode compacts at least once in this time.
const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);
/// Samples of the revision per interval of compaction.
const SAMPLES: u32 = 10;

/// How much history is kept by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AutoCompaction {
    /// All of it, up to [`crate::StoreOptions::history_revisions`].
    #[default]
    Off,
    /// That of the last so long.
    Periodic(Duration),
    /// The last so many revisions.
    Revision(i64),
}

/// A retention that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("auto-compaction: {0}")]
pub struct BadRetention(String);

impl AutoCompaction {
    /// Reads etcd's two settings: mode `periodic` with a retention like `1` (hours), `30m` or
    /// `1h30m`, or mode `revision` with a number of revisions. A retention of 0 is off.
    ///
    /// # Errors
    /// [`BadRetention`] with what is wrong and what is accepted.
    pub fn parse(mode: &str, retention: &str) -> Result<Self, BadRetention> {
        let number = retention.parse::<u32>();
        match (mode, number) {
            ("periodic" | "revision", Ok(0)) => Ok(Self::Off),
            ("periodic", Ok(hours)) => Ok(Self::Periodic(Duration::from_secs(3600 * u64::from(hours)))),
            ("periodic", Err(_)) => match duration(retention) {
                Some(Duration::ZERO) => Ok(Self::Off),
                Some(period) => Ok(Self::Periodic(period)),
                None => Err(BadRetention(format!(
                    "the retention \"{retention}\" is neither a number of hours nor a duration like 30m or 1h30m"
                ))),
            },
            ("revision", Ok(revisions)) => Ok(Self::Revision(revisions.into())),
            ("revision", Err(_)) => {
                Err(BadRetention(format!("the retention \"{retention}\" is not a number of revisions")))
            }
            _ => Err(BadRetention(format!("the mode \"{mode}\" is neither \"periodic\" nor \"revision\""))),
        }
    }
}

/// A duration in hours, minutes and seconds, largest first.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut seconds, mut smallest) = (text, 0u64, u64::MAX);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let unit = match rest.as_bytes()[digits] {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        if unit >= smallest {
            return None;
        }
        smallest = unit;
        seconds = rest[..digits].parse::<u64>().ok()?.checked_mul(unit)?.checked_add(seconds)?;
        rest = &rest[digits + 1..];
    }
    (!text.is_empty()).then(|| Duration::from_secs(seconds))
}

/// Decides when to compact.
#[derive(Debug)]
pub(super) struct Compactor {
    mode: AutoCompaction,
    /// Revisions seen, oldest first; as many as the period has samples.
    seen: VecDeque<i64>,
    last: Instant,
    /// Nothing is compacted before a whole period has passed.
    due: Duration,
    compacted: i64,
}

impl Compactor {
    pub(super) fn new(mode: AutoCompaction, now: Instant) -> Self {
        let due = if let AutoCompaction::Periodic(period) = mode { period } else { Duration::ZERO };
        Self { mode, seen: VecDeque::new(), last: now, due, compacted: 0 }
    }

    /// How often [`Compactor::sample`] is to be called; `None` for never.
    pub(super) fn interval(&self) -> Option<Duration> {
        match self.mode {
            AutoCompaction::Off => None,
            AutoCompaction::Periodic(period) => Some(period.min(LONGEST_INTERVAL) / SAMPLES),
            AutoCompaction::Revision(_) => Some(REVISION_INTERVAL),
        }
    }

    /// Up to which revision to compact now, if at all.
    pub(super) fn sample(&mut self, now: Instant, revision: i64) -> Option<i64> {
        let target = match self.mode {
            AutoCompaction::Off => return None,
            AutoCompaction::Revision(keep) => revision - keep,
            AutoCompaction::Periodic(period) => {
                let interval = period.min(LONGEST_INTERVAL);
                let samples = (period.as_secs_f64() / (interval / SAMPLES).as_secs_f64()) as usize + 1;
                self.seen.push_back(revision);
                if self.seen.len() > samples {
                    self.seen.pop_front();
                }
                if now.saturating_duration_since(self.last) < self.due {
                    return None;
                }
                (self.last, self.due) = (now, interval);
                *self.seen.front()?
            }
        };
        let wanted = target > 0 && target > self.compacted;
        wanted.then(|| {
            self.compacted = target;
            target
        })
    }
}

impl Store {
    /// Compacts as [`crate::StoreOptions::auto_compaction`] says, until cancelled.
    pub async fn run_compaction(self, shutdown: CancellationToken) {
        let mut compactor = Compactor::new(self.0.auto_compaction, Instant::now());
        let Some(interval) = compactor.interval() else { return };
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = shutdown.cancelled() => return,
            }
            if let Some(revision) = compactor.sample(Instant::now(), self.revision()) {
                // Whoever has compacted further already has done our work.
                match self.staged().compact(revision).done().await {
                    Ok(()) => tracing::debug!(revision, "compacted"),
                    Err(error) => tracing::debug!(revision, %error, "not compacted"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60;
    const HOUR: u64 = 3600;

    /// Calls a compactor as often as it wants to be, with a revision a second, for so many seconds.
    fn run(mode: AutoCompaction, seconds: u64) -> Vec<(u64, i64)> {
        let start = Instant::now();
        let mut compactor = Compactor::new(mode, start);
        let interval = compactor.interval().unwrap();
        let mut done = Vec::new();
        let mut at = interval;
        while at.as_secs() <= seconds {
            let found = compactor.sample(start + at, at.as_secs() as i64);
            done.extend(found.map(|revision| (at.as_secs(), revision)));
            at += interval;
        }
        done
    }

    #[test]
    fn the_history_of_a_period_is_kept() {
        let half = Duration::from_secs(30 * MINUTE);
        let done = run(AutoCompaction::Periodic(half), 2 * HOUR);
        let minutes: Vec<_> =
            done.iter().map(|(at, revision)| (at / MINUTE, *revision as u64 / MINUTE)).collect();
        assert_eq!(minutes, [(30, 3), (60, 30), (90, 60), (120, 90)], "at that minute, up to that minute");
        let done = run(AutoCompaction::Periodic(Duration::from_secs(3 * HOUR)), 6 * HOUR);
        let hours: Vec<_> =
            done.iter().map(|(at, revision)| (at / HOUR, *revision as u64 / MINUTE)).collect();
        assert_eq!(hours, [(3, 6), (4, 60), (5, 120), (6, 180)], "every hour, three hours back");
    }

    #[test]
    fn so_many_revisions_are_kept() {
        let done = run(AutoCompaction::Revision(1000), 20 * MINUTE);
        assert_eq!(done, [(1200, 200)]);
        assert_eq!(Compactor::new(AutoCompaction::Off, Instant::now()).interval(), None);
    }

    #[test]
    fn settings_as_etcd_takes_them() {
        let periodic = |seconds| Ok(AutoCompaction::Periodic(Duration::from_secs(seconds)));
        assert_eq!(AutoCompaction::parse("periodic", "1"), periodic(HOUR));
        assert_eq!(AutoCompaction::parse("periodic", "1h30m"), periodic(90 * MINUTE));
        assert_eq!(AutoCompaction::parse("periodic", "30m"), periodic(30 * MINUTE));
        assert_eq!(AutoCompaction::parse("periodic", "0"), Ok(AutoCompaction::Off));
        assert_eq!(AutoCompaction::parse("revision", "1000"), Ok(AutoCompaction::Revision(1000)));
        for (mode, retention) in
            [("periodic", "m"), ("periodic", ""), ("periodic", "1m1h"), ("revision", "1h"), ("other", "1")]
        {
            assert!(AutoCompaction::parse(mode, retention).is_err(), "{mode} {retention}");
        }
    }
}
