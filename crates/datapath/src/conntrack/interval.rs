//! How long to wait between two collections: the more of the entries one has removed, the sooner the
//! next (behaviours 4.6).

use std::time::Duration;

/// The first collection after the start.
const START: Duration = Duration::from_secs(5 * 60);
const SHORTEST: Duration = Duration::from_secs(10);
/// As long as the maps displace entries themselves, there is no hurry.
const LONGEST: Duration = Duration::from_secs(12 * 60 * 60);

/// The waiting time, adapted to what the last collection has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    fixed: bool,
    current: Duration,
}

impl Interval {
    /// Adaptive, or always `fixed` where that is not zero.
    pub fn new(fixed: Duration) -> Self {
        match fixed.is_zero() {
            true => Self { fixed: false, current: START },
            false => Self { fixed: true, current: fixed },
        }
    }

    /// How long to wait now.
    pub fn current(&self) -> Duration {
        self.current
    }

    /// Takes in what part of all entries (0 to 1) the last collection has removed.
    pub fn adapt(&mut self, ratio: f64) {
        if self.fixed {
            return;
        }
        let next = match ratio {
            many if many > 0.25 => self.current.mul_f64((1.0 - many).max(0.01)),
            few if few < 0.05 => self.current.mul_f64(1.5),
            _ => self.current,
        };
        self.current = next.clamp(SHORTEST, LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_to_remove_makes_it_shorter_and_little_longer() {
        let mut interval = Interval::new(Duration::ZERO);
        assert_eq!(interval.current(), START);
        interval.adapt(0.5);
        assert_eq!(interval.current(), START / 2);
        interval.adapt(0.1);
        assert_eq!(interval.current(), START / 2, "as it was");
        (0..100).for_each(|_| interval.adapt(1.0));
        assert_eq!(interval.current(), SHORTEST);
        interval.adapt(0.0);
        assert_eq!(interval.current(), SHORTEST * 3 / 2);
        (0..100).for_each(|_| interval.adapt(0.0));
        assert_eq!(interval.current(), LONGEST);
    }

    #[test]
    fn a_fixed_one_stays() {
        let mut interval = Interval::new(Duration::from_secs(30));
        interval.adapt(1.0);
        assert_eq!(interval.current(), Duration::from_secs(30));
    }
}
