//! Scrapes, compared with the list of names.

use std::collections::{BTreeMap, BTreeSet};

const NAMES: &str = include_str!("../../src/metrics/cilium-names.txt");

/// Checks that a scrape of this role has every name of the list with exactly its labels; `events`: also those that
/// have no sample before something has happened.
pub(crate) fn compare(role: &str, text: &str, events: bool) {
    let found = exposed(text);
    let mut compared = 0;
    for line in NAMES.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let [Some(of), Some(name), Some(labels)] = [words.next(), words.next(), words.next()] else {
            panic!("{line}")
        };
        let needed = match words.next() {
            None => true,
            Some("on-event") => events,
            Some(_) => panic!("{line}"),
        };
        if of != role {
            continue;
        }
        match found.get(name) {
            Some(samples) => assert_eq!(*samples, BTreeSet::from([labels.to_owned()]), "{name}"),
            None => assert!(!needed, "{name} is missing in\n{text}"),
        }
        compared += 1;
    }
    assert!(compared > 4, "the list has names of {role}");
}

/// The names of a scrape with the labels of their samples, as the list writes them.
fn exposed(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let histograms: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" histogram")).collect();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && line.contains('{')) {
        let (name, rest) = line.split_once('{').unwrap();
        let name = histograms.iter().find(|h| name.strip_suffix("_count") == Some(**h)).unwrap_or(&name);
        let (labels, _) = rest.rsplit_once('}').unwrap();
        let mut labels: Vec<&str> =
            labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0)).collect();
        labels.sort_unstable();
        found.entry((*name).to_owned()).or_default().insert(labels.join(","));
    }
    found
}
