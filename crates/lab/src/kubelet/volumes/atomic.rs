//! Replacing the files of a volume as one step: files live in a directory of their own, `..data` points to it, and the
//! names a container sees are links through `..data`. Readers see all old or all new files; a watch on the directory sees
//! the rename of `..data`. The layout is the one programs for Kubernetes expect.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};

use super::Payload;

const DATA: &str = "..data";

/// Makes a volume directory show exactly these files. True if anything changed.
///
/// # Errors
/// A path that leaves the volume, or a disk that refuses.
pub fn write(dir: &Path, payload: &Payload) -> io::Result<bool> {
    for path in payload.keys() {
        let path = Path::new(path);
        if path.components().next().is_none() || !path.components().all(|c| matches!(c, Component::Normal(_)))
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("path {path:?} must stay inside the volume"),
            ));
        }
    }
    let data = dir.join(DATA);
    let old = fs::read_link(&data).ok();
    if old.is_some() && same(&data, payload) {
        return Ok(false);
    }
    let name = format!("..{}", jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f"));
    let fresh = dir.join(&name);
    fs::create_dir_all(&fresh)?;
    for (path, file) in payload {
        let target = fresh.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &file.content)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(file.mode))?;
    }
    let temporary = dir.join("..data_tmp");
    let _ = fs::remove_file(&temporary);
    symlink(&name, &temporary)?;
    fs::rename(&temporary, &data)?;
    link_names(dir, payload)?;
    if let Some(old) = old {
        let _ = fs::remove_dir_all(dir.join(old));
    }
    Ok(true)
}

/// The names a container sees: the first component of each path.
fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|p| p.split('/').next()).collect();
    for name in &wanted {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            fs::remove_file(dir.join(name.as_ref()))?;
        }
    }
    Ok(())
}

fn same(data: &Path, payload: &Payload) -> bool {
    let mut found = BTreeSet::new();
    collect(data, Path::new(""), &mut found);
    found.len() == payload.len()
        && payload.iter().all(|(path, file)| {
            let path = data.join(path);
            fs::read(&path).is_ok_and(|c| c == file.content)
                && fs::metadata(&path).is_ok_and(|m| m.permissions().mode() & 0o7777 == file.mode)
        })
}

fn collect(root: &Path, below: &Path, found: &mut BTreeSet<std::path::PathBuf>) {
    for entry in fs::read_dir(root.join(below)).into_iter().flatten().flatten() {
        let path = below.join(entry.file_name());
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            collect(root, &path, found);
        } else {
            found.insert(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::File;
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |c: &str| File { content: c.as_bytes().to_vec(), mode: 0o640 };
        files.iter().map(|(p, c)| (p.to_string(), file(c))).collect()
    }

    #[test]
    fn files_change_together_and_vanish() {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path();
        let read = |p: &str| fs::read_to_string(d.join(p)).unwrap();
        assert!(write(d, &payload(&[("a", "1"), ("sub/b", "2")])).unwrap());
        assert_eq!((read("a"), read("sub/b")), ("1".into(), "2".into()));
        assert_eq!(fs::metadata(d.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        let first = fs::read_link(d.join(DATA)).unwrap();
        assert!(!write(d, &payload(&[("a", "1"), ("sub/b", "2")])).unwrap(), "no change, no swap");
        assert_eq!(fs::read_link(d.join(DATA)).unwrap(), first);
        assert!(write(d, &payload(&[("a", "3"), ("c", "4")])).unwrap());
        assert_eq!((read("a"), read("c")), ("3".into(), "4".into()));
        let mut names: Vec<_> =
            fs::read_dir(d).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|n| !n.starts_with(".."));
        names.sort();
        assert_eq!(names, ["a", "c"]);
        assert!(!d.join(first).exists());
        assert!(write(d, &payload(&[])).unwrap());
        assert!(fs::symlink_metadata(d.join("a")).is_err());
    }

    #[test]
    fn a_path_cannot_leave_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["../x", "/x", "a/../../x", ""] {
            assert!(write(dir.path(), &payload(&[(bad, "1")])).is_err(), "{bad}");
        }
    }
}
