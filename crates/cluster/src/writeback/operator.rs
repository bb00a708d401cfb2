//! What all writers of the operator have in common.

use kube::api::{DeleteParams, Preconditions};
use kube::core::Status;

use crate::Error;

/// Field manager of everything the operator writes.
pub(super) const FIELD_MANAGER: &str = "causeway-operator";

/// Deletes exactly the object that was seen.
pub(super) fn exactly(uid: Option<&str>, resource_version: Option<&str>) -> DeleteParams {
    let preconditions =
        Preconditions { uid: uid.map(str::to_owned), resource_version: resource_version.map(str::to_owned) };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

/// What a refusal of the API server means for a write: `None` = there is nothing left to be done.
pub(super) fn refused(what: String, error: kube::Error) -> Option<Error> {
    match &error {
        kube::Error::Api(status) if is_terminating(status) => None,
        kube::Error::Api(status) if status.code == 409 => Some(Error::Changed { what }),
        _ => Some(Error::api(format!("write {what}"))(error)),
    }
}

/// The same for a deletion.
pub(super) fn not_deleted(what: String, error: kube::Error) -> Option<Error> {
    match &error {
        kube::Error::Api(status) if status.code == 404 => None,
        kube::Error::Api(status) if status.code == 409 => Some(Error::Changed { what }),
        _ => Some(Error::api(format!("delete {what}"))(error)),
    }
}

/// The namespace is being deleted, and all that is in it.
fn is_terminating(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}
