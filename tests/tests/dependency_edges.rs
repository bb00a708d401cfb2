//! Holds the design's table of who may use whom, over what `cargo metadata` says the manifests declare.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Which of our packages each of our packages may use, in whatever way (normal, build or for its tests).
/// `None` = all of them.
const OURS: [(&str, Option<&[&str]>); 13] = [
    ("model", Some(&[])),
    ("kvstore", Some(&[])),
    ("daemon", Some(&[])),
    ("cluster", Some(&["model"])),
    ("policy", Some(&["model"])),
    ("datapath", Some(&["model"])),
    ("hubble", Some(&["model"])),
    ("dns", Some(&["model"])),
    ("mesh", Some(&["model", "kvstore"])),
    ("lab", Some(&["model", "kvstore"])),
    // It starts what it measures as processes, so that it cannot measure something else than what runs.
    ("bench", Some(&[])),
    ("cli", None),
    ("tests", None),
];

/// Libraries (and their families: `tonic` is `tonic-prost` too) that stay in a few packages, which own the subject.
const FOREIGN: [(&str, &[&str]); 3] = [
    ("kube", &["cluster", "cli", "lab", "tests"]),
    ("aya", &["datapath"]),
    ("tonic", &["kvstore", "hubble", "cli"]),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `null` is a normal dependency.
    kind: Option<String>,
}

fn packages() -> Result<Vec<Package>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .context("run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("read cargo metadata's answer")?;
    ensure!(!metadata.packages.is_empty(), "cargo metadata names no package");
    Ok(metadata.packages)
}

/// The short name of a package of ours: `model` for `causeway-model`.
fn ours(name: &str) -> Option<&str> {
    name.strip_prefix("causeway-")
}

/// Whether `name` is the library `family` or one of its companions.
fn of_family(name: &str, family: &str) -> bool {
    name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Every edge that the tables forbid, in words.
fn forbidden(packages: &[Package]) -> Vec<String> {
    let table: BTreeMap<_, _> = OURS.into_iter().collect();
    let mut found = BTreeSet::new();
    for package in packages {
        let Some(from) = ours(&package.name) else {
            found.insert(format!("{} is in the workspace and not named causeway-…", package.name));
            continue;
        };
        let Some(allowed) = table.get(from) else {
            found.insert(format!(
                "{from} is not in the table: say here and in ARCHITECTURE.md what it may use"
            ));
            continue;
        };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            if let (Some(to), Some(allowed)) = (ours(name), allowed)
                && !allowed.contains(&to)
            {
                found.insert(format!("{from} may not use {to}"));
            }
            if dependency.kind.as_deref() == Some("dev") {
                continue;
            }
            for (family, users) in FOREIGN {
                if of_family(name, family) && !users.contains(&from) {
                    found.insert(format!("{from} may not use {name}: that is for {}", users.join(", ")));
                }
            }
        }
    }
    found.into_iter().collect()
}

#[test]
fn packages_use_only_what_the_design_allows() -> Result<()> {
    let found = forbidden(&packages()?);
    ensure!(found.is_empty(), "edges against the design:\n  {}", found.join("\n  "));
    Ok(())
}

#[test]
fn a_forbidden_edge_is_named() {
    let package = |name: &str, dependencies: &[(&str, Option<&str>)]| Package {
        name: name.into(),
        dependencies: dependencies
            .iter()
            .map(|(name, kind)| Dependency { name: (*name).into(), kind: kind.map(Into::into) })
            .collect(),
    };
    let packages = [
        package("causeway-model", &[("causeway-kvstore", None), ("serde", None)]),
        package("causeway-mesh", &[("causeway-kvstore", None), ("kube-runtime", None)]),
        package("causeway-cluster", &[("causeway-lab", Some("dev")), ("kube", None)]),
        package(
            "causeway-lab",
            &[("tonic-prost-build", Some("build")), ("aya", Some("dev")), ("tonics", None)],
        ),
        package("causeway-new", &[]),
    ];
    assert_eq!(
        forbidden(&packages),
        [
            "cluster may not use lab",
            "lab may not use tonic-prost-build: that is for kvstore, hubble, cli",
            "mesh may not use kube-runtime: that is for cluster, cli, lab, tests",
            "model may not use kvstore",
            "new is not in the table: say here and in ARCHITECTURE.md what it may use",
        ]
    );
}
