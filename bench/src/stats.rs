//! Quartiles and paired ratios: pure functions over samples.

use serde::Serialize;

/// Lower quartile, median and upper quartile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Quartiles {
    /// 25th percentile.
    pub(crate) q1: f64,
    /// Median.
    pub(crate) median: f64,
    /// 75th percentile.
    pub(crate) q3: f64,
}

/// Quartiles by linear interpolation between the two nearest samples. `None` without samples or
/// with one that is not finite.
pub(crate) fn quartiles(samples: &[f64]) -> Option<Quartiles> {
    if samples.is_empty() || samples.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |p: f64| {
        let place = p * (sorted.len() - 1) as f64;
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
    };
    Some(Quartiles { q1: at(0.25), median: at(0.5), q3: at(0.75) })
}

/// Which direction of a measured number is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    /// Latencies: ratio = anchor ÷ ours.
    Lower,
    /// CPU time and memory of an operation: the same, and what a busy machine changes least, so that accepted
    /// ratios are of these.
    Cheaper,
    /// Rates: ratio = ours ÷ anchor.
    Higher,
}

/// The ratio of each pair, so that 1.0 is parity and more is better for us.
pub(crate) fn paired_ratios(anchor: &[f64], ours: &[f64], better: Better) -> Vec<f64> {
    anchor
        .iter()
        .zip(ours)
        .map(|(anchor, ours)| match better {
            Better::Lower | Better::Cheaper => anchor / ours,
            Better::Higher => ours / anchor,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_interpolate() {
        let q = quartiles(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((q.q1, q.median, q.q3), (1.75, 2.5, 3.25));
        assert_eq!(quartiles(&[7.0]).unwrap().median, 7.0);
        assert!(quartiles(&[]).is_none());
        assert!(quartiles(&[1.0, f64::NAN]).is_none());
    }

    #[test]
    fn ratios_are_paired_and_oriented() {
        assert_eq!(paired_ratios(&[30.0, 40.0], &[10.0, 10.0], Better::Lower), [3.0, 4.0]);
        assert_eq!(paired_ratios(&[10.0, 20.0], &[30.0, 40.0], Better::Higher), [3.0, 2.0]);
    }
}
