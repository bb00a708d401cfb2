//! What is in a volume: secrets, config maps, projections, the downward API and tokens turned into files. Pure: contents
//! and tokens are handed in, and what is missing is named.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccountTokenProjection, Volume, VolumeProjection,
};

use crate::kubelet::env::{self, Facts, Kind, Sources};

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub content: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
}

/// The files of a volume by path.
pub type Payload = BTreeMap<String, File>;

/// A token that is wanted: audience (empty for the API server's own) and seconds it shall live.
pub type TokenKey = (String, i64);

/// Renders the volumes of one pod.
#[derive(Debug)]
pub struct Render<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Facts for the downward API.
    pub facts: &'a Facts,
    /// Contents.
    pub sources: &'a Sources,
    /// Tokens.
    pub tokens: &'a BTreeMap<TokenKey, String>,
}

/// The sources of a volume as a list of projections.
fn projections(volume: &Volume) -> (Vec<VolumeProjection>, u32) {
    let mode = |m: Option<i32>| m.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o644);
    let mut one = VolumeProjection::default();
    if let Some(s) = &volume.secret {
        one.secret = Some(k8s_openapi::api::core::v1::SecretProjection {
            name: s.secret_name.clone().unwrap_or_default(),
            items: s.items.clone(),
            optional: s.optional,
        });
        return (vec![one], mode(s.default_mode));
    }
    if let Some(c) = &volume.config_map {
        one.config_map = Some(k8s_openapi::api::core::v1::ConfigMapProjection {
            name: c.name.clone(),
            items: c.items.clone(),
            optional: c.optional,
        });
        return (vec![one], mode(c.default_mode));
    }
    if let Some(d) = &volume.downward_api {
        one.downward_api = Some(k8s_openapi::api::core::v1::DownwardAPIProjection { items: d.items.clone() });
        return (vec![one], mode(d.default_mode));
    }
    let projected = volume.projected.clone().unwrap_or_default();
    (projected.sources.unwrap_or_default(), mode(projected.default_mode))
}

/// The config maps and secrets a volume shows.
pub fn references(volume: &Volume) -> BTreeSet<(Kind, String)> {
    let (sources, _) = projections(volume);
    let secrets = sources.iter().filter_map(|p| p.secret.as_ref()).map(|s| (Kind::Secret, s.name.clone()));
    let maps =
        sources.iter().filter_map(|p| p.config_map.as_ref()).map(|c| (Kind::ConfigMap, c.name.clone()));
    secrets.chain(maps).collect()
}

/// The tokens a volume shows.
pub fn tokens(volume: &Volume) -> BTreeSet<TokenKey> {
    projections(volume).0.iter().filter_map(|p| p.service_account_token.as_ref()).map(token_key).collect()
}

fn token_key(t: &ServiceAccountTokenProjection) -> TokenKey {
    (t.audience.clone().unwrap_or_default(), t.expiration_seconds.unwrap_or(3600))
}

impl Render<'_> {
    /// The files of a volume.
    ///
    /// # Errors
    /// What is missing and not optional.
    pub fn volume(&self, volume: &Volume) -> Result<Payload, String> {
        let (sources, mode) = projections(volume);
        let mut files = Payload::new();
        for p in &sources {
            if let Some(s) = &p.secret {
                self.keys(&mut files, Kind::Secret, &s.name, s.items.as_deref(), s.optional, mode)?;
            }
            if let Some(c) = &p.config_map {
                self.keys(&mut files, Kind::ConfigMap, &c.name, c.items.as_deref(), c.optional, mode)?;
            }
            for item in p.downward_api.iter().flat_map(|d| d.items.iter().flatten()) {
                self.downward(&mut files, item, mode)?;
            }
            if let Some(t) = &p.service_account_token {
                let token = self.tokens.get(&token_key(t)).ok_or("no service account token yet")?;
                let mode = if mode == 0o644 { 0o600 } else { mode };
                files.insert(t.path.clone(), File { content: token.clone().into_bytes(), mode });
            }
        }
        Ok(files)
    }

    fn keys(
        &self,
        files: &mut Payload,
        kind: Kind,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: u32,
    ) -> Result<(), String> {
        let optional = optional == Some(true);
        let Some(content) = self.sources.get(&(kind, name.to_string())).and_then(Option::as_ref) else {
            return if optional { Ok(()) } else { Err(format!("{} {name:?} not found", kind.name())) };
        };
        let Some(items) = items.filter(|i| !i.is_empty()) else {
            files.extend(content.iter().map(|(k, v)| (k.clone(), File { content: v.clone(), mode })));
            return Ok(());
        };
        for item in items {
            match content.get(&item.key) {
                Some(v) => {
                    let mode = item.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(mode);
                    files.insert(item.path.clone(), File { content: v.clone(), mode });
                }
                None if optional => {}
                None => return Err(format!("{} {name:?} has no key {:?}", kind.name(), item.key)),
            }
        }
        Ok(())
    }

    fn downward(&self, files: &mut Payload, item: &DownwardAPIVolumeFile, mode: u32) -> Result<(), String> {
        let text = match &item.field_ref {
            Some(field) => env::field(self.pod, field, self.facts)?,
            None => "0".into(),
        };
        let mode = item.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(mode);
        files.insert(item.path.clone(), File { content: text.into_bytes(), mode });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_projection_merges_its_sources() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "shop"},
            "spec": {"containers": []}}))
        .unwrap();
        let volume: Volume =
            serde_json::from_value(json!({"name": "v", "projected": {"defaultMode": 256, "sources": [
            {"secret": {"name": "s", "items": [{"key": "tls.crt", "path": "c/common.crt", "mode": 420}]}},
            {"secret": {"name": "gone", "optional": true}},
            {"configMap": {"name": "cm"}},
            {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            {"serviceAccountToken": {"path": "token", "audience": "x", "expirationSeconds": 600}}]}}))
            .unwrap();
        let mut sources = Sources::new();
        sources.insert((Kind::Secret, "s".into()), Some([("tls.crt".to_string(), b"C".to_vec())].into()));
        sources.insert((Kind::ConfigMap, "cm".into()), Some([("k".to_string(), b"V".to_vec())].into()));
        let tokens = [(("x".to_string(), 600), "T".to_string())].into();
        assert_eq!(super::tokens(&volume), [("x".to_string(), 600)].into());
        assert_eq!(references(&volume).len(), 3);
        let facts = Facts::default();
        let mut render = Render { pod: &pod, facts: &facts, sources: &sources, tokens: &tokens };
        let files = render.volume(&volume).unwrap();
        let shown: Vec<_> = files.iter().map(|(p, f)| (p.as_str(), f.content.as_slice(), f.mode)).collect();
        assert_eq!(
            shown,
            [
                ("c/common.crt", &b"C"[..], 0o644),
                ("k", b"V", 0o400),
                ("ns", b"shop", 0o400),
                ("token", b"T", 0o400)
            ]
        );
        let none = Sources::new();
        render.sources = &none;
        assert_eq!(render.volume(&volume).unwrap_err(), "secret \"s\" not found");
    }
}
