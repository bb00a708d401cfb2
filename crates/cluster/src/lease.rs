//! Which of several replicas works: the one that holds a Lease.
//!
//! [`Election`] decides (pure; time is an argument), [`Elector`] reads and writes the Lease. As in
//! Kubernetes' own components, nobody's clock is compared with another's: a lease is free when it has not
//! been renewed for its duration since it was first seen like that.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::Error;

/// How patient replicas are with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long a holder that does not renew is waited for.
    pub duration: Duration,
    /// How long a holder that cannot renew goes on working; shorter than `duration`.
    pub deadline: Duration,
    /// How often it is renewed, or looked at.
    pub retry: Duration,
}

/// What of a Lease tells whether it was renewed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    holder: String,
    renewed: Option<MicroTime>,
    transitions: i32,
}

/// What to do with the Lease as it was just read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is ours: renew it.
    Renew,
    /// It is nobody's: take it.
    Take,
    /// Another one holds it.
    Wait,
}

/// The view of one replica.
#[derive(Debug)]
struct Election {
    identity: String,
    duration: Duration,
    seen: Option<(Seen, Instant)>,
}

impl Election {
    fn look(&mut self, spec: Option<&LeaseSpec>, now: Instant) -> Verdict {
        let Some(spec) = spec else { return Verdict::Take };
        let seen = Seen {
            holder: spec.holder_identity.clone().unwrap_or_default(),
            renewed: spec.renew_time.clone(),
            transitions: spec.lease_transitions.unwrap_or(0),
        };
        if self.seen.as_ref().is_none_or(|(before, _)| *before != seen) {
            self.seen = Some((seen.clone(), now));
        }
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        if seen.holder == self.identity {
            Verdict::Renew
        } else if seen.holder.is_empty() || now.duration_since(since) >= self.duration {
            Verdict::Take
        } else {
            Verdict::Wait
        }
    }
}

/// Holds a Lease, or waits for it.
pub struct Elector {
    api: Api<Lease>,
    name: String,
    timing: Timing,
    election: Election,
}

impl Elector {
    /// For the Lease `name`; `identity` tells replicas apart.
    pub fn new(client: Client, namespace: &str, name: &str, identity: String, timing: Timing) -> Self {
        let election = Election { identity, duration: timing.duration, seen: None };
        Self { api: Api::namespaced(client, namespace), name: name.to_owned(), timing, election }
    }

    /// Waits until the Lease is held; false at the shutdown.
    pub async fn acquire(&mut self, shutdown: &CancellationToken) -> bool {
        let mut told = false;
        loop {
            match self.attempt().await {
                Ok(true) => {
                    info!(lease = self.name, identity = self.election.identity, "leading");
                    return true;
                }
                Ok(false) if !told => {
                    let holder = self.election.seen.as_ref().map(|(seen, _)| seen.holder.as_str());
                    info!(lease = self.name, holder, "another replica leads; standing by");
                    told = true;
                }
                Ok(false) | Err(Error::Changed { .. }) => {}
                Err(error) => warn!(lease = self.name, %error, "cannot take the lease yet"),
            }
            tokio::select! {
                () = tokio::time::sleep(self.timing.retry) => {}
                () = shutdown.cancelled() => return false,
            }
        }
    }

    /// Renews the Lease until the shutdown, and gives it back then. Returns early when it is lost: whoever
    /// works on must stop at once.
    pub async fn hold(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.timing.retry) => {}
                () = shutdown.cancelled() => return self.release().await,
            }
            let left = self.timing.deadline.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.attempt()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return Err(Error::LeaseLost { name: self.name }),
                Ok(Err(error)) => debug!(lease = self.name, %error, "cannot renew the lease"),
                Err(_) => {}
            }
            if renewed.elapsed() >= self.timing.deadline {
                return Err(Error::LeaseLost { name: self.name });
            }
        }
    }

    /// Takes or renews the Lease; false when another one holds it.
    async fn attempt(&mut self) -> Result<bool, Error> {
        let what = |verb: &str| format!("{verb} Lease {}", self.name);
        let there = self.api.get_opt(&self.name).await.map_err(Error::api(what("read")))?;
        let spec = there.as_ref().and_then(|lease| lease.spec.as_ref());
        let verdict = self.election.look(spec, Instant::now());
        if verdict == Verdict::Wait {
            return Ok(false);
        }
        let before = spec.cloned().unwrap_or_default();
        let now = Some(MicroTime(jiff::Timestamp::now()));
        let taken = verdict == Verdict::Take;
        let spec = LeaseSpec {
            holder_identity: Some(self.election.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.duration.as_secs()).ok(),
            acquire_time: if taken { now.clone() } else { before.acquire_time },
            renew_time: now,
            lease_transitions: Some(
                before.lease_transitions.unwrap_or(0) + i32::from(taken && there.is_some()),
            ),
            ..LeaseSpec::default()
        };
        self.write(there, spec).await?;
        Ok(true)
    }

    async fn write(&self, there: Option<Lease>, spec: LeaseSpec) -> Result<(), Error> {
        let params = PostParams::default();
        let result = match there {
            Some(mut lease) => {
                lease.spec = Some(spec);
                self.api.replace(&self.name, &params, &lease).await
            }
            None => {
                let mut lease = Lease { spec: Some(spec), ..Lease::default() };
                lease.metadata.name = Some(self.name.clone());
                self.api.create(&params, &lease).await
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                Err(Error::Changed { what: format!("Lease {}", self.name) })
            }
            Err(error) => Err(Error::api(format!("write Lease {}", self.name))(error)),
        }
    }

    /// Gives the Lease back, so that the next one need not wait.
    async fn release(&mut self) -> Result<(), Error> {
        let read = self.api.get_opt(&self.name).await;
        let there = read.map_err(Error::api(format!("read Lease {}", self.name)))?;
        let spec = there.as_ref().and_then(|lease| lease.spec.clone());
        let Some(spec) = spec.filter(|s| s.holder_identity.as_deref() == Some(&self.election.identity))
        else {
            return Ok(());
        };
        self.write(there, LeaseSpec { holder_identity: None, lease_duration_seconds: Some(1), ..spec })
            .await?;
        info!(lease = self.name, "the lease is given back");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(holder: &str, second: u32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()).filter(|holder| !holder.is_empty()),
            renew_time: Some(MicroTime(format!("2026-02-10T09:00:{second:02}Z").parse().unwrap())),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_free_when_it_was_not_renewed_for_its_duration() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut b = Election { identity: "b".into(), duration: Duration::from_secs(15), seen: None };
        assert_eq!(b.look(None, at(0)), Verdict::Take);
        // However old it looks: it may have been renewed by a clock that is late.
        assert_eq!(b.look(Some(&spec("a", 0)), at(0)), Verdict::Wait);
        assert_eq!(b.look(Some(&spec("a", 2)), at(14)), Verdict::Wait);
        assert_eq!(b.look(Some(&spec("a", 2)), at(28)), Verdict::Wait);
        assert_eq!(b.look(Some(&spec("a", 2)), at(29)), Verdict::Take);
        assert_eq!(b.look(Some(&spec("b", 3)), at(30)), Verdict::Renew);
        // Given back.
        assert_eq!(b.look(Some(&spec("", 4)), at(31)), Verdict::Take);
    }
}
