//! CiliumIdentity → Identity (mesh-protocol 2.4).

use causeway_model::{Identity, Labels, NumericIdentity};

use crate::crd::CiliumIdentity;

/// `None` unless the name is a number and there are labels.
pub fn identity(object: &CiliumIdentity) -> Option<Identity> {
    let name = object.metadata.name.as_deref()?;
    let id: u32 = name.parse().ok().filter(|id: &u32| id.to_string() == name)?;
    let mut labels = Labels::new();
    for (key, value) in &object.security_labels {
        labels.insert_prefixed(key, value);
    }
    (!labels.is_empty()).then_some(Identity { id: NumericIdentity(id), labels })
}
