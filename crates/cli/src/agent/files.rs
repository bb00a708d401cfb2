//! Files that others read while they are written.

use std::path::Path;

use anyhow::{Context, Result};

/// Puts what `write` makes in the place of a file, whole or not at all.
///
/// # Errors
/// What could not be written, and why; the file is as it was.
pub(super) fn replace(path: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
    let fresh =
        path.with_file_name(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
    write(&fresh)
        .and_then(|()| std::fs::rename(&fresh, path))
        .with_context(|| format!("write {}", path.display()))
}
