//! The Secrets of an installation: the authority, the leaves, and the empty peer lists.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::Api;
use serde_json::{Value, json};

use super::manifests::labels;
use super::{Options, apply_all};
use crate::names;
use crate::pki::{self, KeyedCert, LeafSpec};

/// Makes every Secret exist; good certificates are kept, and peer lists are never touched.
pub(super) async fn ensure(client: &Client, o: &Options) -> Result<()> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &o.namespace);
    let ca = match read(&api, names::CA_SECRET).await? {
        Some(data) => KeyedCert {
            cert: text(&data, "ca.crt").context("Secret cilium-ca has no usable ca.crt")?,
            key: text(&data, "ca.key").context("Secret cilium-ca has no usable ca.key")?,
        },
        None => {
            let ca = pki::new_ca()?;
            let data = [("ca.crt", &ca.cert), ("ca.key", &ca.key)];
            apply_all(client, &[secret(o, names::CA_SECRET, "Opaque", &data)]).await?;
            tracing::info!(cluster = %o.cluster.name, "issued a certificate authority");
            ca
        }
    };
    let ca_info = pki::inspect(ca.cert.as_bytes()).context("ca.crt of Secret cilium-ca")?;
    for (name, spec) in leaves(o) {
        let existing = read(&api, name).await?;
        let kept = existing.as_ref().is_some_and(|data| {
            let good =
                data.get("tls.crt").is_some_and(|cert| pki::check_leaf(&ca_info, &cert.0, &spec).is_ok());
            good && text(data, "ca.crt").as_deref() == Some(ca.cert.as_str())
        });
        if kept {
            continue;
        }
        let leaf = pki::issue(&ca, &spec)?;
        let data = [("ca.crt", &ca.cert), ("tls.crt", &leaf.cert), ("tls.key", &leaf.key)];
        apply_all(client, &[secret(o, name, "kubernetes.io/tls", &data)]).await?;
        tracing::info!(secret = name, "issued a certificate");
    }
    // Applied without data: what `clustermesh connect` wrote belongs to another field manager.
    let lists = [names::PEERS, names::KVSTOREMESH_PEERS, names::PEER_TRUST];
    apply_all(client, &lists.map(|name| secret(o, name, "Opaque", &[]))).await
}

/// The leaf Secrets (mesh-protocol 5.2; users in the `legacy` mode, Cilium 1.18's default).
fn leaves(o: &Options) -> [(&'static str, LeafSpec); 4] {
    let own = &o.cluster.name;
    [
        (names::SERVER_CERT, LeafSpec::server(&o.namespace)),
        (names::ADMIN_CERT, LeafSpec::client(format!("admin-{own}"))),
        (names::REMOTE_CERT, LeafSpec::client("remote")),
        (names::LOCAL_CERT, LeafSpec::client(format!("local-{own}"))),
    ]
}

fn secret(o: &Options, name: &str, kind: &str, data: &[(&str, &String)]) -> Value {
    let mut manifest = json!({
        "apiVersion": "v1", "kind": "Secret", "type": kind,
        "metadata": { "name": name, "namespace": o.namespace, "labels": labels(name) },
    });
    if !data.is_empty() {
        let encoded: BTreeMap<_, _> =
            data.iter().map(|(key, text)| (*key, ByteString(text.as_bytes().to_vec()))).collect();
        manifest["data"] = json!(encoded);
    }
    manifest
}

async fn read(api: &Api<Secret>, name: &str) -> Result<Option<BTreeMap<String, ByteString>>> {
    let secret = api.get_opt(name).await.with_context(|| format!("read Secret {name}"))?;
    Ok(secret.map(|secret| secret.data.unwrap_or_default()))
}

fn text(data: &BTreeMap<String, ByteString>, key: &str) -> Option<String> {
    String::from_utf8(data.get(key)?.0.clone()).ok()
}
