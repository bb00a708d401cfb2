//! Objects in the store: JSON below `/registry/<group>/<resource>/[<namespace>/]<name>`, the resourceVersion being the
//! revision of the last change.

use causeway_kvstore::pb;
use causeway_kvstore::{Store, WatchOptions, Watcher};
use serde_json::Value;

use super::error::{ApiError, ApiResult};
use super::object::metadata;

/// The root of everything this server stores.
pub const ROOT: &str = "/registry/";

/// An object as stored.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its key.
    pub key: String,
    /// The object, resourceVersion filled in.
    pub value: Value,
    /// Revision of its last change.
    pub revision: i64,
}

/// A part of a listing.
#[derive(Debug)]
pub struct Page {
    /// The objects, ordered by key.
    pub items: Vec<Stored>,
    /// The revision the listing is of.
    pub revision: i64,
    /// Keys after the last item.
    pub remaining: i64,
}

/// Why a write did not happen.
#[derive(Debug)]
pub enum WriteError {
    /// The key exists, or has changed since it was read.
    Changed,
    /// The store's own failure.
    Store(String),
}

impl From<WriteError> for ApiError {
    fn from(e: WriteError) -> Self {
        match e {
            WriteError::Changed => ApiError::new(409, "Conflict", "the object has been modified"),
            WriteError::Store(text) => ApiError::internal(text),
        }
    }
}

/// The store seen as objects. Cheap to clone.
#[derive(Clone)]
pub struct Storage {
    store: Store,
}

/// Key of an object; an empty namespace for cluster-scoped ones.
pub fn key(storage: &str, namespace: &str, name: &str) -> String {
    if namespace.is_empty() {
        format!("{ROOT}{storage}/{name}")
    } else {
        format!("{ROOT}{storage}/{namespace}/{name}")
    }
}

/// Key prefix of a resource's objects, of one namespace or (empty) of all.
pub fn prefix(storage: &str, namespace: &str) -> String {
    if namespace.is_empty() { format!("{ROOT}{storage}/") } else { format!("{ROOT}{storage}/{namespace}/") }
}

/// Reads a stored value, filling in the resourceVersion.
pub fn decode(key: &[u8], value: &[u8], revision: i64) -> ApiResult<Stored> {
    let key = String::from_utf8_lossy(key).into_owned();
    let mut value: Value = serde_json::from_slice(value)
        .map_err(|e| ApiError::internal(format!("stored object {key} is not JSON: {e}")))?;
    metadata(&mut value).insert("resourceVersion".into(), revision.to_string().into());
    Ok(Stored { key, value, revision })
}

fn encode(value: &Value) -> Vec<u8> {
    let mut v = value.clone();
    metadata(&mut v).remove("resourceVersion");
    v.to_string().into_bytes()
}

impl Storage {
    /// Wraps a store.
    pub fn new(store: Store) -> Self {
        Storage { store }
    }

    /// The newest revision.
    pub fn revision(&self) -> i64 {
        self.store.revision()
    }

    /// The underlying store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// One object.
    pub fn get(&self, key: &str) -> ApiResult<Option<Stored>> {
        let request = pb::RangeRequest { key: key.as_bytes().to_vec().into(), ..Default::default() };
        let response = self.store.range(&request).map_err(ApiError::internal)?;
        response.kvs.first().map(|kv| decode(&kv.key, &kv.value, kv.mod_revision)).transpose()
    }

    /// Objects below `prefix`, from `start` (a key) on, at most `limit` (0 = all), as of `revision` (0 = now).
    ///
    /// # Errors
    /// 410 if the revision has been compacted.
    pub fn list(&self, prefix: &str, start: Option<&str>, limit: i64, revision: i64) -> ApiResult<Page> {
        let request = pb::RangeRequest {
            key: start.unwrap_or(prefix).as_bytes().to_vec().into(),
            range_end: causeway_kvstore::prefix_end(prefix.as_bytes()),
            limit,
            revision,
            ..Default::default()
        };
        let response = self.store.range(&request).map_err(|e| match e {
            causeway_kvstore::Error::Compacted => {
                ApiError::expired("The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results.")
            }
            other => ApiError::internal(other),
        })?;
        let at = if revision > 0 { revision } else { response.header.as_ref().map_or(0, |h| h.revision) };
        let items: Vec<Stored> = response
            .kvs
            .iter()
            .map(|kv| decode(&kv.key, &kv.value, kv.mod_revision))
            .collect::<ApiResult<_>>()?;
        let remaining = response.count - items.len() as i64;
        Ok(Page { items, revision: at, remaining: remaining.max(0) })
    }

    /// Writes a key that must not exist; the new revision.
    pub fn create(&self, key: &str, value: &Value) -> Result<i64, WriteError> {
        self.write(key, Some(value), 0)
    }

    /// Replaces a key whose last change must be `expected`; the new revision.
    pub fn update(&self, key: &str, value: &Value, expected: i64) -> Result<i64, WriteError> {
        self.write(key, Some(value), expected)
    }

    /// Removes a key whose last change must be `expected`; the revision of the removal.
    pub fn delete(&self, key: &str, expected: i64) -> Result<i64, WriteError> {
        self.write(key, None, expected)
    }

    fn write(&self, key: &str, value: Option<&Value>, expected: i64) -> Result<i64, WriteError> {
        use pb::compare::{CompareResult, CompareTarget, TargetUnion};
        use pb::request_op::Request;
        let compare = pb::Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Mod as i32,
            key: key.as_bytes().to_vec().into(),
            target_union: Some(TargetUnion::ModRevision(expected)),
            range_end: Default::default(),
        };
        let request = match value {
            Some(v) => Request::RequestPut(pb::PutRequest {
                key: key.as_bytes().to_vec().into(),
                value: encode(v).into(),
                ..Default::default()
            }),
            None => Request::RequestDeleteRange(pb::DeleteRangeRequest {
                key: key.as_bytes().to_vec().into(),
                ..Default::default()
            }),
        };
        let txn = pb::TxnRequest {
            compare: vec![compare],
            success: vec![pb::RequestOp { request: Some(request) }],
            failure: Vec::new(),
        };
        let response = self.store.txn(txn).map_err(|e| WriteError::Store(e.to_string()))?;
        if !response.succeeded {
            return Err(WriteError::Changed);
        }
        Ok(response.header.map_or(0, |h| h.revision))
    }

    /// Changes below `prefix` from `start` (a revision) on, with previous values. A start that has been compacted away is
    /// the watcher's first item.
    pub fn watch(&self, prefix: &str, start: i64) -> Watcher {
        let options =
            WatchOptions { prev_kv: true, ..WatchOptions::prefix(prefix.as_bytes().to_vec(), start) };
        self.store.watch(options)
    }
}

/// 410 for a watch that begins too early.
pub fn too_old(revision: i64) -> ApiError {
    ApiError::expired(format!("too old resource version: {}", revision.saturating_sub(1)))
}
