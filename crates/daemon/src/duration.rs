//! Durations as Go writes them (`15m0s`, `1.5h`, `300ms`), which is how Cilium's settings have them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A span of time whose text is Go's: numbers with units `h`, `m`, `s`, `ms`, `us` (or `µs`), `ns`, the
/// largest first by custom though not by rule, or a bare `0`. Never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct GoDuration(pub Duration);

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; write it like 90s, 15m0s or 1h30m")]
pub struct BadDuration(&'static str);

/// The units and their length in nanoseconds. Longer names come before those they begin with.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3600 * 1_000_000_000),
];

impl FromStr for GoDuration {
    type Err = BadDuration;

    fn from_str(text: &str) -> Result<Self, BadDuration> {
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        if rest.starts_with('-') {
            return Err(BadDuration("it is negative"));
        }
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() {
            return Err(BadDuration("it is empty"));
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (nanos, behind) = part(rest)?;
            total = total.checked_add(nanos).ok_or(TOO_LONG)?;
            rest = behind;
        }
        // Go counts in signed 64 bits: longer ones do not exist there.
        if total > i64::MAX.unsigned_abs() {
            return Err(TOO_LONG);
        }
        Ok(Self(Duration::from_nanos(total)))
    }
}

const TOO_LONG: BadDuration = BadDuration("it is longer than 292 years");

/// One number with its unit, in nanoseconds, and the text behind it.
fn part(text: &str) -> Result<(u64, &str), BadDuration> {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let (number, rest) = text.split_at(text.find(|c| !is_number(c)).unwrap_or(text.len()));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(BadDuration("a number is missing or malformed"));
    }
    let unit = rest.find(is_number).map_or(rest, |end| &rest[..end]);
    let Some((name, nanos)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        let why = if unit.is_empty() { "a unit is missing" } else { "a unit is unknown" };
        return Err(BadDuration(why));
    };
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| TOO_LONG)? };
    let whole = whole.checked_mul(*nanos).ok_or(TOO_LONG)?;
    // Eighteen digits are more than a nanosecond of an hour; what is below a nanosecond is cut off.
    let fraction = &fraction[..fraction.len().min(18)];
    let digits: u128 = fraction.parse().unwrap_or(0);
    let below = digits * u128::from(*nanos) / 10u128.pow(fraction.len() as u32);
    let sum = u64::try_from(below).ok().and_then(|below| whole.checked_add(below)).ok_or(TOO_LONG)?;
    Ok((sum, &rest[name.len()..]))
}

impl fmt::Display for GoDuration {
    /// As Go prints it: `1h0m0s`, `1m30s`, `1.5s`, `300ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let fraction = |f: &mut fmt::Formatter<'_>, nanos: u128, unit: u128, name: &str| {
            let (whole, below) = (nanos / unit, nanos % unit);
            let digits = unit.ilog10() as usize;
            let below = format!("{below:0digits$}");
            match below.trim_end_matches('0') {
                "" => write!(f, "{whole}{name}"),
                below => write!(f, "{whole}.{below}{name}"),
            }
        };
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => fraction(f, nanos, 1_000, "µs"),
            1_000_000..1_000_000_000 => fraction(f, nanos, 1_000_000, "ms"),
            _ => {
                let (hours, minutes) = (nanos / 3_600_000_000_000, nanos / 60_000_000_000);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                fraction(f, nanos % 60_000_000_000, 1_000_000_000, "s")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(text: &str) -> u128 {
        text.parse::<GoDuration>().unwrap_or_else(|e| panic!("{text}: {e}")).0.as_nanos()
    }

    #[test]
    fn texts_of_go() {
        for (text, want) in [
            ("0", 0),
            ("0s", 0),
            ("+5s", 5_000_000_000),
            ("15m0s", 900_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("300ms", 300_000_000),
            ("2us", 2_000),
            ("2µs", 2_000),
            ("2μs3ns", 2_003),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("0.3333333333333333333h", 1_199_999_999_999),
            ("3s2h", 7_203_000_000_000),
        ] {
            assert_eq!(nanos(text), want, "{text}");
        }
        for (text, says) in [
            ("", "empty"),
            ("60", "unit is missing"),
            ("-1s", "negative"),
            ("1d", "unit is unknown"),
            ("s", "number is missing"),
            (".s", "number is missing"),
            ("1.2.3s", "malformed"),
            ("1s ", "unit is unknown"),
            ("1m5", "unit is missing"),
            ("3000000h", "292 years"),
            ("99999999999999999999s", "292 years"),
        ] {
            let error = text.parse::<GoDuration>().unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("15m0s"), "{text}: {error}");
        }
    }

    #[test]
    fn printing_is_read_back() {
        for (nanos, want) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (300_000_000, "300ms"),
            (1_500_000_000, "1.5s"),
            (900_000_000_000, "15m0s"),
            (3_600_000_000_000, "1h0m0s"),
            (7_203_000_000_001, "2h0m3.000000001s"),
        ] {
            let duration = GoDuration(Duration::from_nanos(nanos));
            assert_eq!(duration.to_string(), want);
            assert_eq!(want.parse(), Ok(duration));
        }
    }
}
