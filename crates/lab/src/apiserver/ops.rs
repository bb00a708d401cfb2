//! Reads and writes of objects, with everything Kubernetes does between the request and the store: metadata,
//! defaulting, validation, allocation, generation, finalizers, optimistic concurrency.

use std::sync::Arc;

use serde_json::{Value, json};

use super::apply::managed;
use super::error::{ApiError, ApiResult, FieldErrors};
use super::object::{at, int, is_terminating, list, metadata, name, now, text};
use super::request::{DeleteOptions, WriteOptions};
use super::resources::Resource;
use super::storage::{self, Stored, WriteError};
use super::validation::meta::NameRule;
use super::{Api, allocate, crd, validation};

/// Which part of an object an update may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All but the status (of resources with a status subresource).
    Main,
    /// The status.
    Status,
    /// Anything, without field ownership: the server's own controllers (finalizers, conditions, binding).
    Internal,
    /// The replica count, through the scale subresource.
    Scale,
}

impl Part {
    /// Name for managed fields.
    pub fn subresource(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Main | Self::Internal => "",
        }
    }
}

/// How an update deals with field ownership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    /// The difference belongs to the writer, as an Update.
    Update,
    /// Server-side apply has already written `managedFields`.
    Applied,
}

/// The outcome of a deletion.
#[derive(Debug)]
pub enum Deleted {
    /// It is gone; this is how it last was.
    Gone(Value),
    /// It will go when its finalizers or grace period allow.
    Marked(Value),
}

impl Api {
    /// One stored object.
    ///
    /// # Errors
    /// 404 if there is none.
    pub fn get(&self, res: &Resource, namespace: &str, name: &str) -> ApiResult<Stored> {
        self.storage
            .get(&storage::key(&res.storage, namespace, name))?
            .ok_or_else(|| ApiError::not_found(&res.group, &res.plural, name))
    }

    /// Creates an object: 201 material, as stored.
    ///
    /// # Errors
    /// 422 for an invalid object, 409 for a name in use, 404 or 403 for a namespace that is not or is going.
    pub fn create(
        &self,
        res: &Arc<Resource>,
        namespace: &str,
        mut obj: Value,
        o: &WriteOptions,
    ) -> ApiResult<Value> {
        let before_tracking = begin_create(res, namespace, &mut obj)?;
        if before_tracking == Tracking::Update {
            managed::track(None, &mut obj, res, &o.field_manager, Part::Main);
        }
        self.namespace_accepts(res, namespace)?;
        let mut errors = FieldErrors::default();
        let rule = NameRule::of(&res.group, &res.plural);
        validation::metadata(&obj, rule, res.namespaced, &mut errors);
        let is_service = res.is("", "services");
        let held = match is_service && errors.0.is_empty() {
            true => self.allocator.assign(&mut obj, None, o.dry_run, &mut errors),
            false => allocate::Held::default(),
        };
        (res.validate)(&obj, None, &mut errors);
        crd::validate_custom(res, &obj, None, &mut errors);
        if !errors.0.is_empty() {
            self.allocator.undo(held);
            return Err(ApiError::invalid(&res.group, &res.kind, name(&obj), errors.0));
        }
        let key = storage::key(&res.storage, namespace, name(&obj));
        if o.dry_run {
            return match self.storage.get(&key)? {
                Some(_) => Err(ApiError::already_exists(&res.group, &res.plural, name(&obj))),
                None => Ok(obj),
            };
        }
        match self.storage.create(&key, &obj) {
            Ok(revision) => {
                metadata(&mut obj).insert("resourceVersion".into(), revision.to_string().into());
                self.written(res, &obj)?;
                Ok(obj)
            }
            Err(e) => {
                self.allocator.undo(held);
                Err(match e {
                    WriteError::Changed => ApiError::already_exists(&res.group, &res.plural, name(&obj)),
                    WriteError::Store(text) => ApiError::internal(text),
                })
            }
        }
    }

    fn namespace_accepts(&self, res: &Resource, namespace: &str) -> ApiResult<()> {
        if !res.namespaced {
            return Ok(());
        }
        let Some(ns) = self.storage.get(&storage::key("core/namespaces", "", namespace))? else {
            return Err(ApiError::not_found("", "namespaces", namespace));
        };
        if is_terminating(&ns.value) {
            return Err(ApiError::forbidden(
                &res.group,
                &res.plural,
                "",
                &format!(
                    "unable to create new content in namespace {namespace} because it is being terminated"
                ),
            ));
        }
        Ok(())
    }

    /// Changes an object by a function of its present state, again if somebody else was faster (unless the result
    /// names a resourceVersion, which must then be the present one).
    ///
    /// # Errors
    /// 404, 409 (stale resourceVersion or wrong uid), 422, and what `change` returns.
    pub fn update(
        &self,
        res: &Arc<Resource>,
        key_name: (&str, &str),
        part: Part,
        o: &WriteOptions,
        mut change: impl FnMut(&Value) -> ApiResult<(Value, Tracking)>,
    ) -> ApiResult<Value> {
        let (namespace, name) = key_name;
        for _ in 0..64 {
            let old = self.get(res, namespace, name)?;
            let view = view(res, old.value.clone());
            let (new, tracking) = change(&view)?;
            match self.update_once(res, &old, &view, new, tracking, part, o)? {
                Some(done) => return Ok(done),
                None => continue,
            }
        }
        Err(ApiError::conflict(
            &res.group,
            &res.plural,
            name,
            "too many concurrent changes; please try again",
        ))
    }

    #[allow(clippy::too_many_arguments)]
    fn update_once(
        &self,
        res: &Arc<Resource>,
        old: &Stored,
        view: &Value,
        mut new: Value,
        tracking: Tracking,
        part: Part,
        o: &WriteOptions,
    ) -> ApiResult<Option<Value>> {
        let object_name = name(view).to_string();
        let stale = || {
            let why =
                "the object has been modified; please apply your changes to the latest version and try again";
            ApiError::conflict(&res.group, &res.plural, &object_name, why)
        };
        let asked = text(&new, "metadata.resourceVersion").to_string();
        if !asked.is_empty() && asked != "0" && asked != old.revision.to_string() {
            return Err(stale());
        }
        let asked_uid = text(&new, "metadata.uid").to_string();
        if !asked_uid.is_empty() && asked_uid != text(view, "metadata.uid") {
            let why = format!(
                "Precondition failed: UID in precondition: {asked_uid}, UID in object meta: {}",
                text(view, "metadata.uid")
            );
            return Err(ApiError::conflict(&res.group, &res.plural, &object_name, &why));
        }
        begin_update(res, view, &mut new, part);
        if tracking == Tracking::Update && part != Part::Internal {
            managed::track(Some(view), &mut new, res, &o.field_manager, part);
        }
        let mut errors = FieldErrors::default();
        validation::metadata(&new, NameRule::of(&res.group, &res.plural), res.namespaced, &mut errors);
        validation::meta::metadata_update(&new, view, &mut errors);
        let held = match res.is("", "services") && part != Part::Status && errors.0.is_empty() {
            true => self.allocator.assign(&mut new, Some(view), o.dry_run, &mut errors),
            false => allocate::Held::default(),
        };
        if part != Part::Internal {
            (res.validate)(&new, Some(view), &mut errors);
            crd::validate_custom(res, &new, Some(view), &mut errors);
        }
        if !errors.0.is_empty() {
            self.allocator.undo(held);
            return Err(ApiError::invalid(&res.group, &res.kind, &object_name, errors.0));
        }
        if is_gone(&new) {
            if o.dry_run {
                return Ok(Some(new));
            }
            return match self.storage.delete(&old.key, old.revision) {
                Ok(revision) => {
                    metadata(&mut new).insert("resourceVersion".into(), revision.to_string().into());
                    self.removed(res, &new)?;
                    Ok(Some(new))
                }
                Err(WriteError::Changed) if asked.is_empty() => Ok(None),
                Err(WriteError::Changed) => Err(stale()),
                Err(e) => Err(e.into()),
            };
        }
        metadata(&mut new).insert("resourceVersion".into(), old.revision.to_string().into());
        if o.dry_run || managed::same_but_times(view, &new) {
            self.allocator.undo(held);
            return Ok(Some(if o.dry_run { new } else { view.clone() }));
        }
        match self.storage.update(&old.key, &store_form(res, &new), old.revision) {
            Ok(revision) => {
                metadata(&mut new).insert("resourceVersion".into(), revision.to_string().into());
                if res.is("", "services") {
                    self.allocator.release(view, Some(&new));
                }
                self.written(res, &new)?;
                Ok(Some(new))
            }
            Err(WriteError::Changed) => {
                self.allocator.undo(held);
                if asked.is_empty() || asked == "0" { Ok(None) } else { Err(stale()) }
            }
            Err(e) => {
                self.allocator.undo(held);
                Err(e.into())
            }
        }
    }

    /// Deletes an object, or marks it for deletion if finalizers or a grace period are in the way.
    ///
    /// # Errors
    /// 404, 409 for preconditions.
    pub fn delete(
        &self,
        res: &Arc<Resource>,
        namespace: &str,
        name: &str,
        o: &DeleteOptions,
    ) -> ApiResult<Deleted> {
        loop {
            let old = self.get(res, namespace, name)?;
            let (uid, revision) = (text(&old.value, "metadata.uid"), old.revision.to_string());
            if let Some(want) = o.uid.as_deref().filter(|w| *w != uid) {
                let why = format!(
                    "the UID in the precondition ({want}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
                );
                return Err(ApiError::conflict(&res.group, &res.plural, name, &why));
            }
            if let Some(want) = o.resource_version.as_deref().filter(|w| *w != revision) {
                let why = format!(
                    "the ResourceVersion in the precondition ({want}) does not match the ResourceVersion in record ({revision}). The object might have been modified"
                );
                return Err(ApiError::conflict(&res.group, &res.plural, name, &why));
            }
            let marked = mark(res, &old.value, o);
            if o.dry_run {
                return Ok(if is_gone(&marked) { Deleted::Gone(old.value) } else { Deleted::Marked(marked) });
            }
            let result = if is_gone(&marked) {
                self.storage.delete(&old.key, old.revision).map(|rev| (rev, true))
            } else if marked == old.value {
                return Ok(Deleted::Marked(view(res, marked)));
            } else {
                self.storage.update(&old.key, &marked, old.revision).map(|rev| (rev, false))
            };
            let mut out = view(res, marked);
            match result {
                Ok((revision, gone)) => {
                    metadata(&mut out).insert("resourceVersion".into(), revision.to_string().into());
                    if !gone {
                        self.written(res, &out)?;
                        return Ok(Deleted::Marked(out));
                    }
                    self.removed(res, &out)?;
                    return Ok(Deleted::Gone(out));
                }
                Err(WriteError::Changed) => continue,
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// What follows a write.
    fn written(&self, res: &Resource, _obj: &Value) -> ApiResult<()> {
        if res.storage == crd::STORAGE { crd::reload(self) } else { Ok(()) }
    }

    /// What follows a removal.
    fn removed(&self, res: &Resource, obj: &Value) -> ApiResult<()> {
        if res.is("", "services") {
            self.allocator.release(obj, None);
        }
        self.written(res, obj)
    }
}

/// A stored object as this version of the resource shows it.
pub fn view(res: &Resource, mut v: Value) -> Value {
    if res.is_event() {
        return if res.group.is_empty() { v } else { super::events::to_events(v) };
    }
    if res.schema.is_custom() {
        v["apiVersion"] = res.api_version().into();
        crd::default_custom(res, &mut v);
    }
    v
}

fn store_form(res: &Resource, v: &Value) -> Value {
    if res.is_event() { super::events::to_core(v.clone()) } else { v.clone() }
}

fn begin_create(res: &Arc<Resource>, namespace: &str, obj: &mut Value) -> ApiResult<Tracking> {
    obj["apiVersion"] = res.api_version().into();
    obj["kind"] = res.kind.as_str().into();
    if !text(obj, "metadata.resourceVersion").is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let applied = at(obj, "metadata.managedFields")
        .and_then(Value::as_array)
        .is_some_and(|a| a.iter().any(|e| e["operation"] == "Apply"));
    let meta = metadata(obj);
    for f in ["uid", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        meta.remove(f);
    }
    if meta.get("name").and_then(Value::as_str).unwrap_or("").is_empty() {
        let base: String =
            meta.get("generateName").and_then(Value::as_str).unwrap_or("").chars().take(58).collect();
        if !base.is_empty() {
            meta.insert("name".into(), format!("{base}{}", super::object::name_suffix()).into());
        }
    }
    if res.namespaced {
        meta.insert("namespace".into(), namespace.into());
    }
    meta.insert("uid".into(), super::object::new_uid().into());
    meta.insert("creationTimestamp".into(), now().into());
    if res.generation {
        meta.insert("generation".into(), 1.into());
    }
    if res.status && !res.is("", "nodes") && !res.is("", "namespaces") {
        obj.as_object_mut().map(|m| m.remove("status"));
    }
    complete(res, obj);
    if res.storage == crd::STORAGE {
        crd::establish(obj, None);
    }
    if !applied {
        metadata(obj).remove("managedFields");
    }
    if res.is_event() {
        *obj = super::events::to_core(std::mem::take(obj));
    }
    Ok(if applied { Tracking::Applied } else { Tracking::Update })
}

fn complete(res: &Resource, obj: &mut Value) {
    (res.default)(obj);
    crd::default_custom(res, obj);
}

fn begin_update(res: &Resource, old: &Value, new: &mut Value, part: Part) {
    new["apiVersion"] = res.api_version().into();
    new["kind"] = res.kind.as_str().into();
    match part {
        Part::Main if res.status => keep(old, new, "status"),
        Part::Status => {
            let status = new.get("status").cloned();
            let meta = new["metadata"].clone();
            *new = old.clone();
            match status {
                Some(s) => new["status"] = s,
                None => {
                    new.as_object_mut().map(|m| m.remove("status"));
                }
            }
            if let Some(fields) = meta.get("managedFields") {
                metadata(new).insert("managedFields".into(), fields.clone());
            }
            // Status updates of nodes and pods may carry labels and annotations along, as in Kubernetes.
            if matches!(res.storage.as_str(), "core/nodes" | "core/pods") {
                for f in ["labels", "annotations"] {
                    if let Some(m) = meta.get(f) {
                        metadata(new).insert(f.into(), m.clone());
                    }
                }
            }
        }
        _ => {}
    }
    let fixed = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
        "generateName",
    ];
    let old_meta = &old["metadata"];
    let meta = metadata(new);
    for f in fixed {
        match old_meta.get(f) {
            // Name and namespace have been compared with the path already.
            Some(v) => meta.insert(f.into(), v.clone()),
            None => meta.remove(f),
        };
    }
    if !meta.contains_key("managedFields")
        && let Some(fields) = old_meta.get("managedFields")
    {
        meta.insert("managedFields".into(), fields.clone());
    }
    complete(res, new);
    if res.is("", "namespaces") && part == Part::Main {
        new["spec"] = old["spec"].clone();
    }
    if res.storage == crd::STORAGE && part == Part::Main {
        crd::establish(new, Some(old));
    }
    if res.generation && part != Part::Status && spec_changed(res, old, new) {
        let next = int(old, "metadata.generation").unwrap_or(0) + 1;
        metadata(new).insert("generation".into(), next.into());
    }
}

fn keep(old: &Value, new: &mut Value, field: &str) {
    match (old.get(field), new.as_object_mut()) {
        (Some(v), Some(m)) => {
            m.insert(field.into(), v.clone());
        }
        (None, Some(m)) => {
            m.remove(field);
        }
        _ => {}
    }
}

/// Whether anything but metadata (and, where it is separate, the status) differs.
fn spec_changed(res: &Resource, old: &Value, new: &Value) -> bool {
    let skip = |k: &str| k == "metadata" || (k == "status" && res.status);
    let of = |v: &Value| -> Vec<(String, Value)> {
        v.as_object()
            .into_iter()
            .flatten()
            .filter(|(k, _)| !skip(k))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    of(old) != of(new)
}

/// Whether nothing holds an object that is to be deleted any more.
fn is_gone(v: &Value) -> bool {
    let held_by_spec =
        v["kind"] == "Namespace" && v["apiVersion"] == "v1" && !list(v, "spec.finalizers").is_empty();
    is_terminating(v)
        && list(v, "metadata.finalizers").is_empty()
        && int(v, "metadata.deletionGracePeriodSeconds").unwrap_or(0) == 0
        && !held_by_spec
}

/// The object as a deletion leaves it: timestamp, grace period, finalizers of the propagation policy.
fn mark(res: &Resource, old: &Value, o: &DeleteOptions) -> Value {
    let mut v = old.clone();
    let grace = if res.is("", "pods") { pod_grace(old, o) } else { 0 };
    let first = !is_terminating(old);
    let had = int(old, "metadata.deletionGracePeriodSeconds").unwrap_or(0);
    if first || (grace < had) {
        let at = jiff::Timestamp::now().as_second() + grace;
        let at = jiff::Timestamp::from_second(at).map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let meta = metadata(&mut v);
        meta.insert("deletionTimestamp".into(), at.unwrap_or_else(|_| now()).into());
        meta.insert("deletionGracePeriodSeconds".into(), grace.into());
        if first && res.generation {
            let next = int(old, "metadata.generation").unwrap_or(0) + 1;
            metadata(&mut v).insert("generation".into(), next.into());
        }
    }
    let wanted = match o.propagation.as_str() {
        "Foreground" => Some("foregroundDeletion"),
        "Orphan" => Some("orphan"),
        _ => None,
    };
    let mut finalizers: Vec<Value> = list(&v, "metadata.finalizers").to_vec();
    if !o.propagation.is_empty() {
        finalizers
            .retain(|f| !matches!(f.as_str(), Some("foregroundDeletion" | "orphan")) || f.as_str() == wanted);
    }
    if let Some(f) = wanted
        && !finalizers.iter().any(|x| x == f)
    {
        finalizers.push(f.into());
    }
    let meta = metadata(&mut v);
    if finalizers.is_empty() {
        meta.remove("finalizers")
    } else {
        meta.insert("finalizers".into(), json!(finalizers))
    };
    if res.is("", "namespaces") {
        v["status"]["phase"] = "Terminating".into();
    }
    if res.storage == crd::STORAGE {
        crd::mark_terminating(&mut v);
    }
    v
}

/// Seconds a pod gets: none if it never ran, is done or is not on a node.
fn pod_grace(pod: &Value, o: &DeleteOptions) -> i64 {
    if text(pod, "spec.nodeName").is_empty() || matches!(text(pod, "status.phase"), "Failed" | "Succeeded") {
        return 0;
    }
    let own = int(pod, "spec.terminationGracePeriodSeconds").unwrap_or(30);
    o.grace_period.unwrap_or(own).max(0)
}
