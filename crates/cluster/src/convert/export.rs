//! ServiceExport → the request to export (mesh-protocol 2.7).

use causeway_model::{ExportRequest, ServiceKey};

use super::names;
use crate::crd::ServiceExport;

/// The request of a ServiceExport.
pub fn export(object: &ServiceExport) -> ExportRequest {
    let (namespace, name) = names(&object.metadata);
    let created = object.metadata.creation_timestamp.as_ref();
    ExportRequest {
        key: ServiceKey { namespace, name },
        annotations: object.spec.exported_annotations.clone(),
        labels: object.spec.exported_labels.clone(),
        created: created.map(|time| time.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default(),
    }
}
