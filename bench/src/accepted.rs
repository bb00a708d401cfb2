//! The last accepted ratios, and whether a run still has them (benchmarks 6.3).
//!
//! Ratios of pairs forgive a slow machine, but not every one forgives a busy one. So what is held is costs, CPU time and
//! memory, not rates or latencies; a row is judged only where the anchor was steady, on as many processors as its ratio was
//! accepted on; it has fallen only if its ratio is clearly lower, by the median and by the quartiles; and it is measured
//! again, with more pairs, before that counts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, bail};
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};

use crate::report::{MAX_SPREAD, Row};
use crate::run;

/// The part of an accepted ratio that must be left.
const LEAST: f64 = 0.85;

/// `bench/accepted.json`: by what was built and how much was measured, [`form`].
#[derive(Debug, Default, Serialize, Deserialize)]
struct File(BTreeMap<String, Run>);

/// The ratios of one form.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    commit: String,
    kernel: String,
    processors: usize,
    rows: Vec<Accepted>,
}

/// The ratio of one row, more is better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Accepted {
    id: String,
    case: String,
    ratio: f64,
    q1: f64,
    q3: f64,
}

/// What became of an accepted ratio.
#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Held(f64),
    Fell(f64),
    /// Nothing can be said, and why.
    Unsteady(String),
    /// There is no such row any more.
    Gone,
}

/// Ratios are compared only with those of the same build (`debug`, `release`) and size of the work.
pub(crate) fn form(bin_dir: &Path, divisor: u64) -> String {
    let build = bin_dir.file_name().unwrap_or_default().to_string_lossy();
    format!("{build}, 1/{divisor} of the work")
}

/// Reads the accepted ratios of a form.
///
/// # Errors
/// When the file cannot be read or has none of this form.
pub(crate) fn read(path: &Path, form: &str) -> anyhow::Result<Run> {
    let mut file = file(path)?;
    file.0.remove(form).with_context(|| format!("{} has no ratios of {form:?}", path.display()))
}

/// Makes the ratios of the costs among these rows the accepted ones. Those of other benchmarks stay; a row whose anchor
/// or ratio moves by itself is not held.
///
/// # Errors
/// When the file cannot be read or written, or no cost has a steady ratio.
pub(crate) fn accept(path: &Path, form: &str, rows: &[Row]) -> anyhow::Result<usize> {
    let mut file = if path.exists() { file(path)? } else { File::default() };
    let accepted: Vec<Accepted> = rows.iter().filter_map(Accepted::of).collect();
    if accepted.is_empty() {
        bail!("no cost has a steady ratio");
    }
    let count = accepted.len();
    let measured: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let before = file.0.remove(form).map(|run| run.rows).unwrap_or_default();
    let others = before.into_iter().filter(|row| !measured.contains(row.id.as_str()));
    let mut rows: Vec<Accepted> = others.chain(accepted).collect();
    rows.sort_by(|a, b| (&a.id, &a.case).cmp(&(&b.id, &b.case)));
    let run = Run { commit: run::commit(), kernel: run::kernel(), processors: run::processors(), rows };
    file.0.insert(form.to_owned(), run);
    let text = serde_json::to_string_pretty(&file)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(count)
}

fn file(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} cannot be understood", path.display()))
}

impl Accepted {
    fn of(row: &Row) -> Option<Self> {
        let steady = row.refused.is_none() && row.q3 <= row.q1 * MAX_SPREAD;
        let ratio = row.ratio.filter(|_| row.cost && steady)?;
        Some(Self { id: row.id.clone(), case: row.case.clone(), ratio, q1: row.q1, q3: row.q3 })
    }

    fn judge(&self, rows: &[Row]) -> Outcome {
        let Some(row) = rows.iter().find(|row| row.id == self.id && row.case == self.case) else {
            return Outcome::Gone;
        };
        match (row.ratio, &row.refused) {
            (_, Some(why)) => Outcome::Unsteady(why.clone()),
            (None, None) => Outcome::Gone,
            // Where the quartiles overlap, the medians may differ by chance.
            (Some(now), None) if now < LEAST * self.ratio && row.q3 < self.q1 => Outcome::Fell(now),
            (Some(now), None) => Outcome::Held(now),
        }
    }
}

impl Run {
    /// Why this machine says nothing about these ratios, if so.
    pub(crate) fn not_here(&self) -> Option<String> {
        let here = run::processors();
        (here != self.processors)
            .then(|| format!("accepted on {} processors, and here are {here}", self.processors))
    }

    /// The benchmarks to measure again: those with a row that has fallen.
    pub(crate) fn doubtful(&self, rows: &[Row]) -> BTreeSet<String> {
        let fell = |row: &&Accepted| matches!(row.judge(rows), Outcome::Fell(_));
        self.of(rows).filter(fell).map(|row| row.id.clone()).collect()
    }

    /// A table of all accepted ratios, and how many have fallen.
    pub(crate) fn verdict(&self, rows: &[Row]) -> (String, usize) {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["id", "case", "accepted ratio", "now", "verdict"]);
        let mut fallen = 0;
        for row in self.of(rows) {
            let outcome = row.judge(rows);
            fallen += usize::from(matches!(outcome, Outcome::Fell(_) | Outcome::Gone));
            let (now, verdict) = match outcome {
                Outcome::Held(now) => (format!("{now:.2}"), "held".to_owned()),
                Outcome::Fell(now) => (format!("{now:.2}"), format!("FELL below {LEAST} of it")),
                Outcome::Unsteady(why) => (String::new(), format!("not judged: {why}")),
                Outcome::Gone => (String::new(), "GONE: `make bench-accept` if that is meant".to_owned()),
            };
            let accepted = format!("{:.2} [{:.2} – {:.2}]", row.ratio, row.q1, row.q3);
            table.add_row([row.id.clone(), row.case.clone(), accepted, now, verdict]);
        }
        (format!("accepted at {}\n{table}", self.commit), fallen)
    }

    /// Those of the benchmarks that were measured.
    fn of(&self, rows: &[Row]) -> impl Iterator<Item = &Accepted> {
        let measured: BTreeSet<String> = rows.iter().map(|row| row.id.clone()).collect();
        self.rows.iter().filter(move |row| measured.contains(&row.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(case: &str, ratio: f64, spread: f64, refused: bool) -> Row {
        Row {
            id: "B0".into(),
            case: case.into(),
            ratio: Some(ratio),
            q1: ratio / spread,
            q3: ratio * spread,
            cost: true,
            refused: refused.then(|| "etcd was unsteady".into()),
            ..Row::default()
        }
    }

    fn accepted(rows: &[Row]) -> Run {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("accepted.json");
        let other = Row { id: "B9".into(), ..row("other", 7.0, 1.0, false) };
        accept(&path, "debug", &[other]).unwrap();
        accept(&path, "debug", rows).unwrap();
        read(&path, "debug").unwrap()
    }

    #[test]
    fn only_what_is_clearly_lower_has_fallen() {
        let run = accepted(&[row("a", 4.0, 1.05, false)]);
        assert_eq!(run.rows.len(), 2, "the other benchmark's stay");
        assert_eq!(run.not_here(), None);
        for (now, spread, refused, doubtful, fallen) in [
            (4.0, 1.05, false, 0, 0),
            (3.5, 1.05, false, 0, 0),
            (3.3, 1.05, false, 1, 1),
            // Its quartiles reach the accepted ones.
            (3.3, 1.3, false, 0, 0),
            (1.0, 1.05, true, 0, 0),
        ] {
            let rows = [row("a", now, spread, refused)];
            assert_eq!(run.doubtful(&rows).len(), doubtful, "{rows:?}");
            let (table, count) = run.verdict(&rows);
            assert_eq!(count, fallen, "{table}");
            assert!(!table.contains("other"), "{table}");
        }
    }

    #[test]
    fn what_moves_by_itself_is_not_held() {
        let run =
            accepted(&[row("a", 4.0, 1.05, false), row("b", 4.0, 1.2, false), row("c", 4.0, 1.0, true)]);
        let held: Vec<&str> = run.rows.iter().map(|row| row.case.as_str()).collect();
        assert_eq!(held, ["a", "other"]);
    }

    #[test]
    fn a_row_that_is_gone_is_not_overlooked() {
        let run = accepted(&[row("a", 4.0, 1.05, false)]);
        let rows = [row("renamed", 4.0, 1.05, false)];
        assert_eq!(run.verdict(&rows).1, 1);
    }

    #[test]
    fn other_forms_have_ratios_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("accepted.json");
        accept(&path, &form(Path::new("target/debug"), 5), &[row("a", 4.0, 1.0, false)]).unwrap();
        assert!(read(&path, &form(Path::new("target/debug"), 5)).is_ok());
        let error = read(&path, &form(Path::new("target/release"), 5)).unwrap_err();
        assert!(error.to_string().contains("release"), "{error}");
    }
}
