//! What the operator shows of itself: `/debug/state` and the metrics read it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use causeway_model::ServiceKey;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

/// Shared between the task that works and those that show it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board(Arc<Mutex<Content>>);

/// What is shown.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// Conditions of this cluster's ServiceExports.
    pub(crate) exports: BTreeMap<ServiceKey, Vec<Condition>>,
    /// The ServiceImports: exporting clusters, conditions.
    pub(crate) imports: BTreeMap<ServiceKey, (usize, Vec<Condition>)>,
    /// EndpointSlices of other clusters.
    pub(crate) slices: usize,
    /// Things that could be written.
    pub(crate) written: u64,
    /// Attempts to write that failed.
    pub(crate) failed: u64,
    /// What cannot be written, and why.
    pub(crate) problems: BTreeMap<String, String>,
    /// What waits.
    pub(crate) waiting: usize,
}

impl Board {
    /// The content, for as long as it is held.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For `/debug/state`.
    pub(crate) fn shown(&self) -> Value {
        let content = self.lock();
        json!({
            "exports": content.exports.len(), "imports": content.imports.len(), "slices": content.slices,
            "written": content.written, "failed": content.failed, "waiting": content.waiting,
            "problems": content.problems,
        })
    }
}
