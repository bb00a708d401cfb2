//! Every row of the store and the mesh still runs, end to end, in its tiniest form. Nothing is said about speed.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The rows that need no lab.
const ROWS: [&str; 14] =
    ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "IPCACHE", "SERVICE", "CHURN", "BURST", "SCALE"];

/// Where the workspace's executables are: the folder of ours.
fn built() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_causeway-bench")).parent().expect("an executable is in a folder")
}

/// Runs the benchmarks in their tiniest form: what is printed, and the rows that are written.
fn tiny(args: &[&str]) -> (String, Vec<Value>) {
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().join("new").join("results.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway-bench"));
    for folder in ["--bin-dir", "--debug-dir", "--optimised-dir"] {
        command.arg(folder).arg(built());
    }
    let output = command.arg("--tiny").args(args).arg("--results").arg(&results).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains(results.to_str().unwrap()), "{text}");
    (text.into_owned(), serde_json::from_slice(&std::fs::read(&results).unwrap()).unwrap())
}

#[test]
fn every_row_runs() {
    for name in [
        "causeway",
        "examples/bench_store",
        "examples/bench_mesh",
        "examples/bench_burst",
        "examples/bench_b8",
        "examples/bench_b9",
        "examples/bench_churn",
        "examples/bench_ipcache",
    ] {
        let path = built().join(name);
        assert!(path.exists(), "{} is missing: cargo build --workspace --bins --examples", path.display());
    }
    let (text, rows) = tiny(&["--plain", "--only", &ROWS.join(",")]);
    for id in ROWS {
        assert!(rows.iter().any(|row| row["id"] == id), "{id} has no row");
    }
    for row in &rows {
        let (case, ours) = (row["case"].as_str().unwrap(), row["ours"].as_f64());
        assert!(text.contains(case), "{case} is not in the table");
        // JSON has no infinity; a number that was none is null. What is counted in ticks of the CPU's clock, or
        // from one process's event to another's, may be nothing in so short a time.
        let may_be_zero = case.contains("CPU") || case.contains("Kubernetes");
        assert!(ours.is_some_and(|ours| ours > 0.0 || (may_be_zero && ours == 0.0)), "{row}");
    }
}

#[test]
fn a_row_has_a_column_over_mutual_tls() {
    let (_, rows) = tiny(&["--only", "B1"]);
    assert!(rows.iter().all(|row| row["mutual"]["ratio"].is_f64()), "{rows:?}");
}

#[test]
fn ratios_are_accepted_and_held() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_causeway-bench"))
            .args(["--tiny", "--plain", "--only", "B1", "--bin-dir"])
            .arg(built())
            .arg("--results")
            .arg(path("results.json"))
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), text)
    };
    let accepted = path("accepted.json").display().to_string();
    let (done, text) = run(&["--check", &accepted]);
    assert!(!done && text.contains("accepted.json"), "{text}");
    let (done, text) = run(&[]);
    assert!(done, "{text}");
    let (done, text) = run(&["--accept", &accepted]);
    assert!(done, "{text}");
    // Nothing is a millionth of what it was a moment ago, and a row of another name is not there.
    for (case, held) in [(None, true), (Some("another"), false)] {
        let mut file: Value = serde_json::from_slice(&std::fs::read(path("accepted.json")).unwrap()).unwrap();
        let form = file.as_object_mut().unwrap().values_mut().next().unwrap();
        for row in form["rows"].as_array_mut().unwrap() {
            for name in ["ratio", "q1", "q3"] {
                row[name] = (row[name].as_f64().unwrap() * 1e-6).into();
            }
        }
        if let Some(case) = case {
            form["rows"][0]["case"] = case.into();
        }
        std::fs::write(path("changed.json"), file.to_string()).unwrap();
        let (done, text) = run(&["--check", path("changed.json").to_str().unwrap()]);
        assert_eq!(done, held, "{text}");
        assert_eq!(text.contains("GONE"), !held, "{text}");
    }
}

#[test]
fn an_unknown_row_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_causeway-bench")).args(["--only", "B0"]).output().unwrap();
    assert!(!output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("\"B0\" is unknown") && errors.contains("BURST"), "{errors}");
}
