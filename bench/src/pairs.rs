//! Both sides measured in one run, one pair after the other (benchmarks 6.1, rule 1).

use crate::report::{Case, Target};
use crate::run::Context;
use crate::stats::Better;

/// Samples of both sides, a pair each.
#[derive(Debug)]
pub(crate) struct Pairs<T> {
    anchor_name: &'static str,
    anchor: Vec<T>,
    ours: Vec<T>,
}

impl<T> Pairs<T> {
    /// Measures `context.pairs` pairs, each on subjects of its own.
    ///
    /// # Errors
    /// Those of `measure`, or when a subject does not start.
    pub(crate) fn run<S>(
        context: &Context,
        anchor_name: &'static str,
        anchor: impl Fn() -> anyhow::Result<S>,
        ours: impl Fn() -> anyhow::Result<S>,
        mut measure: impl FnMut(&S) -> anyhow::Result<T>,
    ) -> anyhow::Result<Self> {
        let mut pairs = Self { anchor_name, anchor: Vec::new(), ours: Vec::new() };
        for _ in 0..context.pairs {
            pairs.anchor.push(measure(&anchor()?)?);
            pairs.ours.push(measure(&ours()?)?);
        }
        Ok(pairs)
    }

    /// One number of the samples as a case.
    pub(crate) fn case(
        &self,
        id: &'static str,
        case: impl Into<String>,
        (unit, better): (&'static str, Better),
        target: Target,
        get: impl Fn(&T) -> f64,
    ) -> Case {
        Case {
            id,
            case: case.into(),
            unit,
            anchor_name: self.anchor_name,
            // A limit of ours needs nobody to compare with.
            anchor: match target {
                Target::AtMost(_) => Vec::new(),
                _ => self.anchor.iter().map(&get).collect(),
            },
            ours: self.ours.iter().map(&get).collect(),
            better,
            target,
        }
    }
}
