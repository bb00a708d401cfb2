//! Sides that are compared with each other in more than one row: ours, kube-proxy's rules in its two manners, and what the
//! machine can do at all.

use std::collections::BTreeMap;
use std::process::Command;

use serde::Deserialize;

use crate::report::Target;
use crate::run::{Context, sample};

/// A side with so many of something.
pub(crate) type Side = (&'static str, u64);

/// A row: the anchor, ours, what the anchor is called, and the target.
pub(crate) type Compared = (Side, Side, &'static str, Target);

/// What the load generator prints.
#[derive(Deserialize)]
struct Sample {
    value: f64,
}

/// Whether the rows that compare with iptables can be measured; said where they cannot.
pub(crate) fn has_iptables(bench: &str) -> bool {
    let there = Command::new("iptables-legacy-restore").arg("--version").output().is_ok();
    if !there {
        eprintln!(
            "{bench}: without iptables (apt-get install iptables) the rows that compare with it are left out"
        );
    }
    there
}

/// Samples of every side, each side in turn, so that all are measured in the same minutes.
///
/// # Errors
/// Those of the load generator, which `command` makes for a side.
pub(crate) fn measure(
    context: &Context,
    compared: &[Compared],
    command: impl Fn(Side) -> Command,
) -> anyhow::Result<BTreeMap<Side, Vec<f64>>> {
    let sides = compared.iter().flat_map(|(anchor, ours, ..)| [*anchor, *ours]);
    let mut samples: BTreeMap<Side, Vec<f64>> = sides.map(|side| (side, vec![])).collect();
    for _ in 0..context.pairs {
        for (side, samples) in &mut samples {
            samples.push(sample::<Sample>(&mut command(*side))?.value);
        }
    }
    Ok(samples)
}
