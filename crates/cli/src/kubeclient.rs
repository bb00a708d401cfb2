//! Clients of Kubernetes APIs: by kubeconfig context for operators, in-cluster for daemons.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// A client of the cluster behind a context (`None` = the current one) and the context's name.
pub(crate) async fn for_context(
    kubeconfig: Option<&Path>,
    context: Option<&str>,
) -> Result<(Client, String)> {
    let file = match kubeconfig {
        Some(path) => {
            Kubeconfig::read_from(path).with_context(|| format!("read kubeconfig {}", path.display()))?
        }
        None => Kubeconfig::read().context("read the kubeconfig (give --kubeconfig or set KUBECONFIG)")?,
    };
    let known: Vec<&str> = file.contexts.iter().map(|c| c.name.as_str()).collect();
    let name = match context.or(file.current_context.as_deref()) {
        Some(name) if known.contains(&name) => name.to_owned(),
        Some(name) => bail!("the kubeconfig has no context {name:?}; it has: {}", known.join(", ")),
        None => bail!("the kubeconfig has no current context; give --context, one of: {}", known.join(", ")),
    };
    let options = KubeConfigOptions { context: Some(name.clone()), ..Default::default() };
    let mut config = Config::from_custom_kubeconfig(file, &options)
        .await
        .with_context(|| format!("context {name} of the kubeconfig"))?;
    config.connect_timeout = Some(Duration::from_secs(5));
    let client = Client::try_from(config).with_context(|| format!("client for context {name}"))?;
    Ok((client, name))
}

/// A client for a daemon: the kubeconfig when given, else the pod's service account.
pub(crate) async fn for_daemon(kubeconfig: Option<&Path>) -> Result<Client> {
    if kubeconfig.is_some() {
        return Ok(for_context(kubeconfig, None).await?.0);
    }
    let config = Config::incluster().context("not in a pod and no --kubeconfig given")?;
    Client::try_from(config).context("in-cluster Kubernetes client")
}
