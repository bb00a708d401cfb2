//! Deletions the plugin could not deliver: one file per container, named by it. The plugin must not
//! block the removal of pods while the agent is down, so it leaves a note; the next agent acts on it.

use std::path::Path;

use super::endpoints::Endpoints;

/// Where the notes are: on the node, for plugin and agent alike.
const DIRECTORY: &str = "/run/causeway/cni-deletions";

/// Leaves a note that the container of this id, as the plugin has checked it, is gone.
pub(crate) fn leave_note(container_id: &str) -> std::io::Result<()> {
    leave(Path::new(DIRECTORY), container_id)
}

fn leave(dir: &Path, container_id: &str) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join(container_id), b"")
}

/// Carries out what was left. A note that fails stays for the next agent.
pub(super) async fn carry_out(endpoints: &Endpoints) {
    let dir = Path::new(DIRECTORY);
    for container_id in notes(dir) {
        match endpoints.delete(&container_id).await {
            Ok(()) => {
                tracing::info!(container = container_id, "carried out a deletion of the time without agent");
                let _ = std::fs::remove_file(dir.join(&container_id));
            }
            Err(error) => tracing::warn!(container = container_id, %error, "a deletion failed; it is kept"),
        }
    }
}

fn notes(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return vec![] };
    let mut names: Vec<_> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("deletions");
        assert!(notes(&dir).is_empty());
        leave(&dir, "b").unwrap();
        leave(&dir, "a").unwrap();
        leave(&dir, "a").unwrap();
        assert_eq!(notes(&dir), ["a", "b"]);
    }
}
