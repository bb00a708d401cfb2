//! Rows of results: the table on the screen and `target/bench/results.json`.

use std::path::Path;

use anyhow::Context;
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};

use crate::stats::{Better, Quartiles, paired_ratios, quartiles};

/// The anchor's p75 ÷ p25 above which a run says nothing (benchmarks 6.1, rule 7).
pub(crate) const MAX_SPREAD: f64 = 1.25;

/// Samples of one case, as measured.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// Benchmark id, for example `B11`.
    pub(crate) id: &'static str,
    /// What was measured.
    pub(crate) case: String,
    /// Unit of both columns.
    pub(crate) unit: &'static str,
    /// Who the anchor is.
    pub(crate) anchor_name: &'static str,
    /// One sample of the anchor a pair; empty where there is no anchor to run here.
    pub(crate) anchor: Vec<f64>,
    /// Our sample of each pair.
    pub(crate) ours: Vec<f64>,
    /// Which direction is good.
    pub(crate) better: Better,
    /// What our number is held against.
    pub(crate) target: Target,
}

impl Case {
    /// Adds the pairs of another pass.
    pub(crate) fn absorb(&mut self, more: Case) {
        self.anchor.extend(more.anchor);
        self.ours.extend(more.ours);
    }
}

/// A case as measured over plaintext, and where that was done over mutual TLS.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    /// What the targets are for.
    pub(crate) plain: Case,
    /// The second column.
    pub(crate) mutual: Option<Case>,
}

/// What a case is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    /// Median paired ratio at least this.
    Ratio(f64),
    /// Our median at most this, in the case's unit.
    AtMost(f64),
    /// Reported only.
    None,
}

/// One line of `results.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Benchmark id.
    pub(crate) id: String,
    /// What was measured.
    pub(crate) case: String,
    /// Unit of `anchor` and `ours`.
    pub(crate) unit: String,
    /// The anchor's median; `null` without an anchor.
    pub(crate) anchor: Option<f64>,
    /// Our median.
    pub(crate) ours: f64,
    /// Median of the paired ratios, more is better; `null` without an anchor.
    pub(crate) ratio: Option<f64>,
    /// Lower quartile of the paired ratios, or of our samples without an anchor.
    pub(crate) q1: f64,
    /// Upper quartile of the paired ratios, or of our samples without an anchor.
    pub(crate) q3: f64,
    /// The target as text: `≥ 1.20×`, `≤ 50`; empty = reported only.
    pub(crate) target: String,
    /// Whether it was met; `null` where there is no target or the anchor was too unsteady to say.
    pub(crate) met: Option<bool>,
    /// Why the row must not be published, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refused: Option<String>,
    /// It is CPU time or memory of an operation.
    #[serde(default)]
    pub(crate) cost: bool,
    /// The same over mutual TLS, where that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mutual: Option<Box<Row>>,
}

/// Turns the samples of both columns into a row.
///
/// # Errors
/// When a side has no samples or one that is not a number.
pub(crate) fn both(measured: &Measured) -> anyhow::Result<Row> {
    let mut row = row(&measured.plain)?;
    // Targets are those of plaintext.
    let mutual =
        measured.mutual.as_ref().map(|case| self::row(&Case { target: Target::None, ..case.clone() }));
    row.mutual = mutual.transpose()?.map(Box::new);
    Ok(row)
}

/// Turns samples into a row.
///
/// # Errors
/// When a side has no samples or one that is not a number.
pub(crate) fn row(case: &Case) -> anyhow::Result<Row> {
    let ours =
        quartiles(&case.ours).with_context(|| format!("{} {}: no samples of ours", case.id, case.case))?;
    let anchor = quartiles(&case.anchor);
    let ratios = quartiles(&paired_ratios(&case.anchor, &case.ours, case.better));
    let unsteady = anchor.filter(|a| a.q3 / a.q1 > MAX_SPREAD);
    let (target, met) = match case.target {
        Target::Ratio(least) => (format!("≥ {least:.2}×"), ratios.map(|r| r.median >= least)),
        Target::AtMost(most) => (format!("≤ {most}"), Some(ours.median <= most)),
        Target::None => (String::new(), None),
    };
    let Quartiles { q1, q3, .. } = ratios.unwrap_or(ours);
    Ok(Row {
        id: case.id.into(),
        case: case.case.clone(),
        unit: case.unit.into(),
        anchor: anchor.map(|a| round(a.median)),
        ours: round(ours.median),
        ratio: ratios.map(|r| round(r.median)),
        q1: round(q1),
        q3: round(q3),
        target,
        met: met.filter(|_| unsteady.is_none()),
        refused: unsteady.map(|a| {
            format!("{} was unsteady: p75 ÷ p25 = {:.2} > {MAX_SPREAD}", case.anchor_name, a.q3 / a.q1)
        }),
        cost: case.better == Better::Cheaper,
        mutual: None,
    })
}

fn round(x: f64) -> f64 {
    (x * 1000.0).round() / 1000.0
}

/// The table of benchmarks 6.3, with a second column where something was measured over mutual TLS.
pub(crate) fn table(rows: &[Row]) -> String {
    let secure = rows.iter().any(|row| row.mutual.is_some());
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let mut header = vec!["id", "case", "unit", "anchor", "ours", "ratio [q1 – q3]", "target", "met"];
    if secure {
        header.push("over mutual TLS: anchor, ours, ratio");
    }
    table.set_header(header);
    for row in rows {
        let mut cells = vec![
            row.id.clone(),
            row.case.clone(),
            row.unit.clone(),
            anchor(row),
            row.ours.to_string(),
            ratio(row),
            row.target.clone(),
            match (&row.refused, row.met) {
                (Some(why), _) => format!("not published: {why}"),
                (None, Some(true)) => "yes".into(),
                (None, Some(false)) => "NO".into(),
                (None, None) => String::new(),
            },
        ];
        if secure {
            cells.push(row.mutual.as_ref().map_or_else(String::new, |mutual| {
                let refused = mutual.refused.as_ref().map_or_else(String::new, |why| format!("; {why}"));
                format!("{}, {}, {}{refused}", anchor(mutual), mutual.ours, ratio(mutual))
            }));
        }
        table.add_row(cells);
    }
    table.to_string()
}

fn anchor(row: &Row) -> String {
    row.anchor.map_or("–".into(), |x| x.to_string())
}

fn ratio(row: &Row) -> String {
    match row.ratio {
        Some(ratio) => format!("{ratio:.2} [{:.2} – {:.2}]", row.q1, row.q3),
        None => format!("ours [{} – {}]", row.q1, row.q3),
    }
}

/// Geometric mean of min(ratio ÷ target, 1.5) over the rows with a ratio target that were steady.
pub(crate) fn score(measured: &[Measured], rows: &[Row]) -> Option<f64> {
    let logs: Vec<f64> = measured
        .iter()
        .zip(rows)
        .filter_map(|(measured, row)| match (measured.plain.target, row.ratio, &row.refused) {
            (Target::Ratio(target), Some(ratio), None) => Some((ratio / target).min(1.5).ln()),
            _ => None,
        })
        .collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
}

/// Reads what [`write`] wrote.
///
/// # Errors
/// When there is no such file or it is something else.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Row>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} holds no results", path.display()))
}

/// Writes `results.json`, creating its directory.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write(rows: &[Row], path: &Path) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let text = serde_json::to_string_pretty(rows)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(anchor: &[f64], ours: &[f64], target: Target) -> Case {
        Case {
            id: "B0",
            case: "c".into(),
            unit: "µs",
            anchor_name: "peer",
            anchor: anchor.to_vec(),
            ours: ours.to_vec(),
            better: Better::Lower,
            target,
        }
    }

    #[test]
    fn met_is_judged_by_the_median_ratio() {
        let good = row(&case(&[20.0, 21.0, 22.0], &[10.0, 10.0, 10.0], Target::Ratio(2.0))).unwrap();
        assert_eq!((good.ratio, good.met, good.refused), (Some(2.1), Some(true), None));
        let bad = row(&case(&[20.0, 21.0, 22.0], &[20.0; 3], Target::Ratio(2.0))).unwrap();
        assert_eq!(bad.met, Some(false));
    }

    #[test]
    fn an_unsteady_anchor_is_not_published() {
        let row = row(&case(&[10.0, 20.0, 40.0], &[1.0; 3], Target::Ratio(2.0))).unwrap();
        assert_eq!(row.met, None);
        assert!(row.refused.unwrap().contains("unsteady"));
    }

    #[test]
    fn without_an_anchor_our_median_counts() {
        let row = row(&case(&[], &[40.0, 45.0, 60.0], Target::AtMost(50.0))).unwrap();
        assert_eq!((row.anchor, row.ratio, row.met), (None, None, Some(true)));
    }

    #[test]
    fn no_single_easy_win_hides_a_miss() {
        let cases = [case(&[100.0], &[1.0], Target::Ratio(2.0)), case(&[10.0], &[10.0], Target::Ratio(2.0))];
        let cases = cases.map(|plain| Measured { plain, mutual: None });
        let rows: Vec<Row> = cases.iter().map(|c| both(c).unwrap()).collect();
        let score = score(&cases, &rows).unwrap();
        assert!((score - (1.5f64 * 0.5).sqrt()).abs() < 1e-9, "{score}");
    }

    #[test]
    fn the_second_column_has_no_target() {
        let plain = case(&[20.0], &[10.0], Target::Ratio(2.0));
        let mutual = Some(case(&[30.0], &[20.0], Target::Ratio(2.0)));
        let row = both(&Measured { plain, mutual }).unwrap();
        let second = row.mutual.as_ref().unwrap();
        assert_eq!((row.met, second.ratio, second.met), (Some(true), Some(1.5), None));
        let table = table(std::slice::from_ref(&row));
        assert!(table.contains("30, 20, 1.50"), "{table}");
        let written = tempfile::tempdir().unwrap().path().join("new/results.json");
        write(std::slice::from_ref(&row), &written).unwrap();
        assert_eq!(read(&written).unwrap(), [row]);
    }

    #[test]
    fn another_pass_adds_its_pairs() {
        let mut all = case(&[20.0], &[10.0], Target::None);
        all.absorb(case(&[30.0, 40.0], &[10.0, 10.0], Target::None));
        assert_eq!(row(&all).unwrap().ratio, Some(3.0));
    }
}
