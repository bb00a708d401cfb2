//! What was found out about each remote cluster, for people and for programs. Pure.

use std::path::PathBuf;

use serde::Serialize;

use crate::output::printable;

/// The steps of a connection, in the order in which they must succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// The file that names the remote cluster.
    File,
    /// The certificates and the key it refers to.
    Certificates,
    /// From host name to addresses.
    Resolve,
    /// A TCP connection.
    Tcp,
    /// TLS in both directions.
    Tls,
    /// What the server lets our user read.
    Authorisation,
    /// The sign of life of whoever writes the server's content.
    Heartbeat,
    /// The announcement of the remote cluster.
    Configuration,
    /// The marks that the content is complete.
    Sync,
}

impl Stage {
    /// The steps that are taken for each endpoint.
    const OF_ENDPOINT: [Stage; 7] = [
        Stage::Resolve,
        Stage::Tcp,
        Stage::Tls,
        Stage::Authorisation,
        Stage::Heartbeat,
        Stage::Configuration,
        Stage::Sync,
    ];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Stage::File => "file",
            Stage::Certificates => "certificates",
            Stage::Resolve => "resolve",
            Stage::Tcp => "tcp",
            Stage::Tls => "tls",
            Stage::Authorisation => "authorisation",
            Stage::Heartbeat => "heartbeat",
            Stage::Configuration => "configuration",
            Stage::Sync => "sync",
        }
    }
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// As it should be.
    Ok,
    /// It works, and should be looked after.
    Warning,
    /// It does not work; later steps are not reached.
    Failed,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Step {
    /// Which one.
    pub stage: Stage,
    /// URL it was taken for; steps of the whole cluster have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found, one sentence.
    pub finding: String,
    /// What it was found from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Step {
    pub(super) fn ok(stage: Stage, finding: impl Into<String>) -> Self {
        let finding = finding.into();
        Self { stage, endpoint: None, outcome: Outcome::Ok, finding, details: vec![], fix: None }
    }

    pub(super) fn failed(stage: Stage, finding: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, fix: Some(fix.into()), ..Self::ok(stage, finding) }
    }

    pub(super) fn warning(stage: Stage, finding: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { outcome: Outcome::Warning, fix: Some(fix.into()), ..Self::ok(stage, finding) }
    }

    #[must_use]
    pub(super) fn with(mut self, details: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(details);
        self
    }

    pub(super) fn is_failed(&self) -> bool {
        self.outcome == Outcome::Failed
    }
}

/// One remote cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: PathBuf,
    /// The id it announces, if that was read.
    pub id: Option<u32>,
    /// What was tried, in order.
    pub steps: Vec<Step>,
}

impl Remote {
    /// The URLs that were tried, in order.
    fn endpoints(&self) -> Vec<&str> {
        let mut found: Vec<&str> = vec![];
        for endpoint in self.steps.iter().filter_map(|step| step.endpoint.as_deref()) {
            if !found.contains(&endpoint) {
                found.push(endpoint);
            }
        }
        found
    }

    fn steps_of(&self, endpoint: Option<&str>) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(move |step| step.endpoint.as_deref() == endpoint)
    }

    /// The verdict. Agents use whichever endpoint answers, so one that works is enough; the others
    /// are a warning.
    pub(crate) fn verdict(&self) -> Outcome {
        let endpoints = self.endpoints();
        let fails = |endpoint: Option<&str>| self.steps_of(endpoint).any(Step::is_failed);
        if fails(None) || (!endpoints.is_empty() && endpoints.iter().all(|url| fails(Some(url)))) {
            return Outcome::Failed;
        }
        match self.steps.iter().all(|step| step.outcome == Outcome::Ok) {
            true => Outcome::Ok,
            false => Outcome::Warning,
        }
    }

    /// The step that decided the verdict: of several endpoints the one that came furthest.
    pub(crate) fn cause(&self) -> Option<&Step> {
        let failed = self.steps.iter().filter(|step| step.is_failed());
        let cluster_wide = failed.clone().find(|step| step.endpoint.is_none());
        cluster_wide
            .or_else(|| failed.max_by_key(|step| step.stage))
            .or_else(|| self.steps.iter().find(|step| step.outcome == Outcome::Warning))
    }

    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name, "file": self.file, "cluster-id": self.id, "verdict": self.verdict(),
            "cause": self.cause(), "steps": self.steps,
        })
    }

    fn to_text(&self) -> String {
        let mut text = format!("{}  {}\n", self.name, self.file.display());
        for step in self.steps_of(None) {
            render(&mut text, "  ", step);
        }
        for endpoint in self.endpoints() {
            text.push_str(&format!("  {endpoint}\n"));
            let steps: Vec<&Step> = self.steps_of(Some(endpoint)).collect();
            for step in &steps {
                render(&mut text, "    ", step);
            }
            let last = steps.last().map(|step| step.stage);
            let rest: Vec<_> =
                Stage::OF_ENDPOINT.iter().filter(|s| Some(**s) > last).map(|s| s.word()).collect();
            if !rest.is_empty() {
                text.push_str(&format!("    -     not reached: {}\n", rest.join(", ")));
            }
        }
        let result = match (self.verdict(), self.cause()) {
            (Outcome::Ok, _) => "works".to_owned(),
            (Outcome::Warning, Some(step)) => {
                format!("works, but look after {}: {}", step.stage.word(), step.finding)
            }
            (_, Some(step)) => format!("FAILED at {}: {}", step.stage.word(), step.finding),
            (_, None) => "FAILED".to_owned(),
        };
        text + &format!("  result: {result}\n")
    }
}

fn render(text: &mut String, indent: &str, step: &Step) {
    let mark = match step.outcome {
        Outcome::Ok => "ok",
        Outcome::Warning => "warn",
        Outcome::Failed => "FAIL",
    };
    text.push_str(&format!("{indent}{mark:<5} {:<14} {}\n", step.stage.word(), step.finding));
    for detail in &step.details {
        text.push_str(&format!("{indent}{:<20} {detail}\n", ""));
    }
    if let Some(fix) = &step.fix {
        text.push_str(&format!("{indent}{:<20} fix: {fix}\n", ""));
    }
}

/// Two clusters with one id: neither is right, and agents take the first they meet.
pub(super) fn name_conflicts(remotes: &mut [Remote]) {
    let ids: Vec<(String, Option<u32>)> = remotes.iter().map(|r| (r.name.clone(), r.id)).collect();
    for remote in remotes {
        let holders: Vec<&str> = ids
            .iter()
            .filter(|(name, id)| remote.id.is_some() && *id == remote.id && *name != remote.name)
            .map(|(name, _)| name.as_str())
            .collect();
        if let (Some(id), false) = (remote.id, holders.is_empty()) {
            remote.steps.push(Step::failed(
                Stage::Configuration,
                format!("it announces cluster id {id}, and so does {}", holders.join(", ")),
                "give all but one of them another cluster-id, and restart their workloads",
            ));
        }
    }
}

/// All remotes as JSON: `{"ok", "clusters": [{"name", "file", "cluster-id", "verdict", "cause", "steps"}]}`.
pub(super) fn to_json(remotes: &[Remote]) -> serde_json::Value {
    serde_json::json!({
        "ok": remotes.iter().all(|remote| remote.verdict() != Outcome::Failed),
        "clusters": remotes.iter().map(Remote::to_json).collect::<Vec<_>>(),
    })
}

/// All remotes for people. Certificates and answers of others are quoted in it: line by line, no
/// control character of theirs gets through.
pub(super) fn to_text(remotes: &[Remote]) -> String {
    let text = remotes.iter().map(Remote::to_text).collect::<Vec<_>>().join("\n");
    text.lines().map(|line| printable(line.as_bytes())).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: Step, endpoint: &str) -> Step {
        Step { endpoint: Some(endpoint.into()), ..step }
    }

    fn remote(name: &str, id: Option<u32>, steps: Vec<Step>) -> Remote {
        Remote { name: name.into(), file: name.into(), id, steps }
    }

    #[test]
    fn one_endpoint_that_works_is_enough_and_the_furthest_failure_is_the_cause() {
        let file = Step::ok(Stage::File, "read");
        let refused = at(Step::failed(Stage::Tcp, "refused", "open it"), "a");
        let unnamed = at(Step::failed(Stage::Resolve, "no such name", "name it"), "b");
        let works = at(Step::ok(Stage::Sync, "complete"), "b");
        let good = remote("c", None, vec![file.clone(), refused.clone(), works]);
        assert_eq!(good.verdict(), Outcome::Warning);
        let bad = remote("c", None, vec![file.clone(), unnamed, refused]);
        assert_eq!((bad.verdict(), bad.cause().unwrap().stage), (Outcome::Failed, Stage::Tcp));
        let text = bad.to_text();
        assert!(text.contains("not reached: tls, authorisation, heartbeat, configuration, sync"), "{text}");
        assert!(text.ends_with("result: FAILED at tcp: refused\n"), "{text}");
        assert_eq!(remote("c", None, vec![file]).verdict(), Outcome::Ok);
        let odd = remote("c", None, vec![Step::ok(Stage::File, "CN=\u{1b}[2J")]);
        assert!(to_text(&[odd]).contains("CN=\\u{1b}[2J"));
    }

    #[test]
    fn an_id_of_two_clusters_is_named_for_both() {
        let mut all =
            [remote("a", Some(2), vec![]), remote("b", Some(2), vec![]), remote("c", Some(3), vec![])];
        name_conflicts(&mut all);
        assert!(all[0].cause().unwrap().finding.contains("cluster id 2, and so does b"));
        assert!(all[1].cause().unwrap().finding.contains("so does a"));
        assert_eq!(all[2].verdict(), Outcome::Ok);
        let mut unknown = [remote("a", None, vec![]), remote("b", None, vec![])];
        name_conflicts(&mut unknown);
        assert!(unknown.iter().all(|remote| remote.steps.is_empty()));
    }
}
