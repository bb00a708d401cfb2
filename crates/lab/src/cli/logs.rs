//! `causeway lab logs`.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use futures::AsyncBufReadExt;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::Api;
use kube::api::{ListParams, LogParams};

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::runtime::Context;
use crate::state::LabDir;

/// Which pod's log.
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) cluster: Option<String>,
    pub(super) container: Option<String>,
}

pub(super) async fn print(name: &str, pod: Pod, of: Option<&str>, follow: bool) -> Result<()> {
    let dir = LabDir::new(name)?;
    let status = dir.status();
    let mut processes: Vec<String> =
        status.iter().flat_map(|s| s.processes.iter().map(|p| p.name.clone())).collect();
    processes.push("supervisor".into());
    let Some(of) = of else {
        if status.is_none() {
            dir.running()?;
        }
        processes.iter().for_each(|p| println!("{p}"));
        return Ok(());
    };
    if processes.iter().any(|p| p == of) {
        return print_file(&dir.log(of), follow).await;
    }
    print_pod(&Lab::open(name)?, pod, of, follow).await
}

/// Prints a file, and what is added to it.
async fn print_file(path: &Path, follow: bool) -> Result<()> {
    let mut file = File::open(path).what(|| format!("open {}", path.display()))?;
    let mut buffer = vec![0; 65536];
    let mut out = std::io::stdout();
    loop {
        let n = file.read(&mut buffer).what(|| format!("read {}", path.display()))?;
        if n > 0 {
            out.write_all(&buffer[..n]).what(|| "print".into())?;
        } else if follow {
            tokio::time::sleep(Duration::from_millis(200)).await;
        } else {
            return Ok(());
        }
    }
}

/// Prints a pod's log as the API server has it.
async fn print_pod(lab: &Lab, pod: Pod, name: &str, follow: bool) -> Result<()> {
    let mut found = Vec::new();
    for cluster in &lab.plan().clusters {
        if pod.cluster.as_ref().is_some_and(|c| *c != cluster.name) {
            continue;
        }
        let api = Api::<PodObject>::namespaced(lab.client(&cluster.name).await?, &pod.namespace);
        let failed = |e| Error::Api { cluster: cluster.name.clone(), source: Box::new(e) };
        let pods = api.list(&ListParams::default()).await.map_err(failed)?;
        let names: Vec<String> = pods.items.into_iter().filter_map(|p| p.metadata.name).collect();
        let exact: Vec<String> = names.iter().filter(|n| *n == name).cloned().collect();
        let begin = || names.iter().filter(|n| n.starts_with(name)).cloned().collect();
        let these: Vec<String> = if exact.is_empty() { begin() } else { exact };
        found.extend(these.into_iter().map(|n| (cluster.name.clone(), api.clone(), n)));
    }
    let (cluster, api, full) = match found.as_slice() {
        [one] => one,
        [] => {
            let text = format!("there is neither a pod {}/{name} nor a process {name}", pod.namespace);
            return Err(Error::refused(format!("{text}; `causeway lab logs` lists the processes")));
        }
        many => {
            let names: Vec<_> = many.iter().map(|(c, _, n)| format!("{n} of {c}")).collect();
            let text = format!("{name} is several pods: {}; give one name and --cluster", names.join(", "));
            return Err(Error::refused(text));
        }
    };
    let failed = |e| Error::Api { cluster: cluster.clone(), source: Box::new(e) };
    let params = LogParams { follow, container: pod.container, ..LogParams::default() };
    let stream = api.log_stream(full, &params).await.map_err(failed)?;
    let mut lines = stream.lines();
    while let Some(line) = lines.try_next().await.what(|| format!("read the log of {full}"))? {
        println!("{line}");
    }
    Ok(())
}
