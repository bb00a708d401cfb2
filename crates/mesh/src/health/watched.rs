//! What is known of one node.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Kind, ProbeId, Target, Way};

/// Falls within this time count as flapping.
const FLAPPING: Duration = Duration::from_secs(60);
/// Answers in a row that bring a node back: doubled by every fall within [`FLAPPING`], at most this many.
const ANSWERS: u32 = 2;
const MOST_ANSWERS: u32 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Has never answered.
    Unknown,
    Reachable,
    Unreachable,
}

/// The second opinion of a run of losses: of the kind that is not asked usually.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Second {
    NotAsked,
    Asked,
    Answered,
    Silent,
}

/// The last that was heard one way.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    /// When the probe that was answered last was sent, and how long the answer took.
    pub(super) answered: Option<(Instant, Duration)>,
    /// When the probe that failed last was sent.
    pub(super) failed: Option<Instant>,
    /// What was wrong with the last one.
    pub(super) fault: Option<Box<str>>,
}

#[derive(Debug)]
pub(super) struct Watched {
    pub(super) target: Arc<Target>,
    pub(super) state: State,
    /// Since when it is in this state.
    pub(super) since: Instant,
    /// The kind that it answers.
    pub(super) primary: Kind,
    pub(super) second: Second,
    /// When it is asked next; none while an answer is awaited.
    pub(super) next: Option<Instant>,
    /// The last regular question: the only one whose loss counts.
    pub(super) asked: Option<ProbeId>,
    /// Probes of the primary kind that were lost in a row.
    pub(super) lost: u32,
    /// When the first of them was sent.
    pub(super) silent_from: Option<Instant>,
    /// It is silent, but so is everybody.
    pub(super) held: bool,
    /// Answers in a row while it is unreachable.
    answers: u32,
    falls: VecDeque<Instant>,
    heard: [[Heard; 2]; 2],
}

impl Watched {
    pub(super) fn new(target: Arc<Target>, state: State, now: Instant) -> Self {
        Self {
            target,
            state,
            since: now,
            primary: Kind::Icmp,
            second: Second::NotAsked,
            next: None,
            asked: None,
            lost: 0,
            silent_from: None,
            held: false,
            answers: 0,
            falls: VecDeque::new(),
            heard: Default::default(),
        }
    }

    pub(super) fn heard(&self, way: Way, kind: Kind) -> &Heard {
        &self.heard[way as usize][kind as usize]
    }

    pub(super) fn heard_mut(&mut self, way: Way, kind: Kind) -> &mut Heard {
        &mut self.heard[way as usize][kind as usize]
    }

    /// Whether it has answered outside the tunnel since it is silent inside, and did so the last time.
    pub(super) fn answers_outside(&self) -> bool {
        let Some(from) = self.silent_from else { return false };
        let answers = |kind| {
            let Heard { answered, failed, .. } = self.heard(Way::Underlay, kind);
            answered.is_some_and(|(sent, _)| sent >= from && failed.is_none_or(|failed| sent >= failed))
        };
        Kind::ALL.into_iter().any(answers)
    }

    /// One more loss of the primary kind, of a probe sent then.
    pub(super) fn lose(&mut self, sent: Instant) {
        self.answers = 0;
        // The first loss is counted without a witness.
        self.held &= self.lost == 0;
        self.lost = self.lost.saturating_add(1);
        self.silent_from.get_or_insert(sent);
    }

    /// A loss that does not count, because nobody else has answered either. Nor do those before it: each time the
    /// uplink comes back, one may be counted that was sent just before.
    pub(super) fn hold(&mut self) {
        self.begin();
        self.held = true;
    }

    /// Begins to count losses anew.
    pub(super) fn begin(&mut self) {
        self.lost = 0;
        self.second = Second::NotAsked;
        self.silent_from = None;
        self.held = false;
    }

    /// It has become unreachable.
    pub(super) fn fall(&mut self, now: Instant) {
        self.state = State::Unreachable;
        self.since = now;
        self.answers = 0;
        self.falls.push_back(now);
        while self.falls.front().is_some_and(|fall| now.saturating_duration_since(*fall) > FLAPPING) {
            self.falls.pop_front();
        }
    }

    /// It is unreachable and has answered; true if it has often enough.
    pub(super) fn rise(&mut self, now: Instant) -> bool {
        self.answers += 1;
        let doubled = self.falls.len().saturating_sub(1).min(8);
        if self.answers < (ANSWERS << doubled).min(MOST_ANSWERS) {
            return false;
        }
        self.state = State::Reachable;
        self.since = now;
        true
    }
}
