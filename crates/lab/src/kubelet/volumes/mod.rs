//! Volumes of a pod: directories on the node that are bound into containers. Contents that come from the API server
//! (secrets, config maps, projections, the downward API, tokens) are kept up to date in place.

mod atomic;
mod payload;

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, Volume, VolumeMount};

pub use atomic::write as write_atomic;
pub use payload::{File, Payload, Render, TokenKey, references, tokens};

use super::process::{Bind, Propagation};

/// Where containers find their service account.
pub const ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Name of the volume the kubelet adds for it. No volume of a user can have it: it is no DNS label.
pub const ACCOUNT_VOLUME: &str = "kube-api-access.lab";

/// Whether a volume's content comes from the API server.
pub fn is_rendered(volume: &Volume) -> bool {
    volume.secret.is_some()
        || volume.config_map.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
}

/// The pod's volumes, with the one for its service account if it is mounted by default.
pub fn all(pod: &Pod) -> Vec<Volume> {
    let spec = pod.spec.clone().unwrap_or_default();
    let mut volumes = spec.volumes.unwrap_or_default();
    if spec.automount_service_account_token != Some(false) {
        let projected = serde_json::json!({"name": ACCOUNT_VOLUME, "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}], "optional": true}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}});
        volumes.extend(serde_json::from_value::<Volume>(projected));
    }
    volumes
}

/// Makes the directory of a volume that needs none of the API server.
///
/// # Errors
/// A hostPath that is not what its type says, or a kind of volume the lab does not have.
pub fn prepare(volume: &Volume, dir: &Path) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("volume {:?}: {e}", volume.name);
    if let Some(host) = &volume.host_path {
        let path = Path::new(&host.path);
        return match host.type_.as_deref().unwrap_or("") {
            "DirectoryOrCreate" => std::fs::create_dir_all(path).map_err(fail),
            "FileOrCreate" if !path.exists() => std::fs::write(path, "").map_err(fail),
            "Directory" if !path.is_dir() => {
                Err(format!("hostPath type check failed: {} is not a directory", host.path))
            }
            "File" if !path.is_file() => {
                Err(format!("hostPath type check failed: {} is not a file", host.path))
            }
            _ => Ok(()),
        };
    }
    if volume.empty_dir.is_some() || is_rendered(volume) {
        std::fs::create_dir_all(dir).map_err(fail)?;
        if volume.empty_dir.is_some() {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).map_err(fail)?;
        }
        return Ok(());
    }
    Err(format!(
        "volume {:?} is of a kind the lab does not have: use emptyDir, hostPath, configMap, secret, projected or downwardAPI",
        volume.name
    ))
}

/// The bind mount for a volume mount. `dir` holds the volume directories.
///
/// # Errors
/// An unknown volume, or a path that is not there.
pub fn bind(
    volumes: &[Volume],
    mount: &VolumeMount,
    sub_path: Option<&str>,
    dir: &Path,
) -> Result<Bind, String> {
    let volume = volumes
        .iter()
        .find(|v| v.name == mount.name)
        .ok_or_else(|| format!("volumeMount {:?} names no volume of the pod", mount.name))?;
    let mut source = match &volume.host_path {
        Some(host) => PathBuf::from(&host.path),
        None => dir.join(&volume.name),
    };
    if let Some(sub) = sub_path.filter(|s| !s.is_empty()) {
        if Path::new(sub)
            .components()
            .any(|c| !matches!(c, std::path::Component::Normal(_) | std::path::Component::CurDir))
        {
            return Err(format!("subPath {sub:?} must stay inside the volume"));
        }
        source.push(sub);
        if !source.exists() && !is_rendered(volume) {
            std::fs::create_dir_all(&source).map_err(|e| format!("subPath {sub:?}: {e}"))?;
        }
        // A symbolic link of a rendered volume is resolved now: such a mount is not updated, as in Kubernetes.
        source = std::fs::canonicalize(&source)
            .map_err(|e| format!("subPath {sub:?} of volume {:?}: {e}", volume.name))?;
    }
    if !source.exists() {
        if volume.host_path.as_ref().is_some_and(|h| h.type_.as_deref().unwrap_or("").is_empty()) {
            // Container runtimes make a missing source of an unchecked hostPath.
            std::fs::create_dir_all(&source).map_err(|e| format!("hostPath {}: {e}", source.display()))?;
        } else {
            return Err(format!("volume {:?}: {} does not exist", volume.name, source.display()));
        }
    }
    let propagation = match mount.mount_propagation.as_deref() {
        Some("Bidirectional") => Propagation::Bidirectional,
        Some("HostToContainer") => Propagation::HostToContainer,
        _ => Propagation::None,
    };
    let read_only = mount.read_only == Some(true) || is_rendered(volume);
    Ok(Bind { source, target: PathBuf::from(&mount.mount_path), read_only, propagation, replace: false })
}
