//! The weights of shares.

use super::*;

fn cluster(n: usize) -> Option<ClusterName> {
    (n > 0).then(|| ClusterName::new(format!("cls-{n}")).unwrap())
}

/// Shares and numbers of backends of clusters to the weights of one backend of each.
fn each(clusters: &[(u16, u32)]) -> Vec<u16> {
    let names: Vec<_> = (0..clusters.len()).map(cluster).collect();
    let plan = Plan {
        weights: names.iter().cloned().zip(clusters.iter().map(|(weight, _)| *weight)).collect(),
        ..Plan::default()
    };
    let winners = names.iter().zip(clusters.iter().map(|(_, count)| *count)).collect();
    shares(&plan, &winners).into_iter().map(|(_, weight)| weight).collect()
}

#[test]
fn shares_in_the_smallest_whole_numbers() {
    assert_eq!(each(&[(90, 2), (10, 1)]), [9, 2]);
    assert_eq!(each(&[(50, 3), (50, 3)]), [1, 1]);
    assert_eq!(each(&[(90, 7), (10, 13)]), [117, 7]);
    assert_eq!(each(&[(1, 1)]), [1]);
    assert_eq!(each(&[(0, 4)]), [0; 0], "no share at all: all alike");
    assert_eq!(each(&[]), [0; 0]);
}

#[test]
fn shares_beyond_16_bits_come_as_near_as_they_can() {
    let clusters = [(10_000, 1), (9_999, 9_973), (1, 9_967), (10_000, 3)];
    let weights = each(&clusters);
    assert_eq!(weights[0], u16::MAX);
    let sum: f64 =
        weights.iter().zip(clusters).map(|(each, (_, count))| f64::from(*each) * f64::from(count)).sum();
    let all: f64 = clusters.iter().map(|(weight, _)| f64::from(*weight)).sum();
    for ((share, count), each) in clusters.into_iter().zip(weights).filter(|((share, _), _)| *share > 1) {
        let (is, wanted) = (f64::from(each) * f64::from(count) / sum, f64::from(share) / all);
        // Whoever has little share of much still gets a connection now and then.
        assert!((is - wanted).abs() < 0.15, "{is} {wanted}");
        assert!(each >= 1);
    }
    // Numbers whose multiple no type holds.
    let primes = [(1, 4_294_967_291), (1, 4_294_967_279), (2, 4_294_967_231), (3, 1)];
    assert!(each(&primes).iter().all(|weight| *weight >= 1));
}

#[test]
fn a_census_forgets_what_is_gone() {
    let plan = Plan::default();
    let class = |grade| plan.class(TrafficPolicy::Cluster, grade, None, Hint::None, true);
    let mut census = Census::default();
    census.add(class(Grade::Active));
    census.add(class(Grade::Active));
    census.add(class(Grade::Terminating));
    census.remove(&class(Grade::Active));
    assert!(Mode::of(&plan, &census).judge(&class(Grade::Terminating)).is_err());
    census.remove(&class(Grade::Active));
    assert_eq!(Mode::of(&plan, &census).judge(&class(Grade::Terminating)), Ok(1));
    census.remove(&class(Grade::Terminating));
    assert_eq!((census.iter().count(), Mode::of(&plan, &census)), (0, Mode::default()));
}
