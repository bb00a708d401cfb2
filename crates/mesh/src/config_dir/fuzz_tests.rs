//! Peers' files, fuzzed: whatever is in one, reading it does not panic, and what is accepted can be used.

use causeway_model::ClusterName;

use super::file;
use crate::fuzz::replay;

#[test]
fn fuzz_peers_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cls-b");
    let own = ClusterName::new("cls-a").unwrap();
    let accepted = std::cell::Cell::new(0);
    replay("yaml", |input| {
        std::fs::write(&path, input).unwrap();
        let found = file::scan(dir.path(), Some(&own)).unwrap();
        assert!(found.invalid.is_empty());
        for (name, config) in found.clusters {
            assert_eq!(name.as_str(), "cls-b");
            match config {
                Ok(config) => {
                    accepted.set(accepted.get() + 1);
                    assert!(config.endpoints.iter().all(|endpoint| endpoint.contains("://")));
                    assert!(!config.endpoints.is_empty());
                    assert_eq!(config.cert_file.is_some(), config.key_file.is_some());
                }
                Err(error) => assert!(error.to_string().contains("cls-b")),
            }
        }
    });
    assert!(accepted.get() > 100, "only {} inputs were accepted: the corpus tests nothing", accepted.get());
}
