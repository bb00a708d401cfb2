//! This cluster: Kubernetes to model events, and write-back.
//!
//! [`crd`] holds the object types of `cilium.io` and `multicluster.x-k8s.io`, [`convert`] the pure
//! way from objects to the model, [`source`] the watchers, [`writeback`] what agents and the operator
//! write, [`lease`] which replica of the operator works, [`pod_labels`] the security labels of a pod.

pub mod convert;
pub mod crd;
pub mod lease;
pub mod pod_labels;
pub mod source;
pub mod writeback;

/// What can go wrong with the Kubernetes API; the text names the object and the step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request failed.
    #[error("{what}: {}", readable(.source))]
    Api {
        /// What was tried, with the object's name.
        what: String,
        /// The client's error.
        #[source]
        source: Box<kube::Error>,
    },
    /// A CRD was not accepted in time.
    #[error("CustomResourceDefinition {name} was not established within {seconds} s: {reason}")]
    NotEstablished {
        /// Its name.
        name: String,
        /// How long was waited.
        seconds: u64,
        /// The last condition seen.
        reason: String,
    },
    /// An object of another owner has the name of one that is to be written.
    #[error(
        "{what} is there already and was not made by the operator; it is left as it is: delete or rename it"
    )]
    Foreign {
        /// Kind, namespace and name.
        what: String,
    },
    /// An object changed between reading and writing it; trying again will do.
    #[error("{what} was changed by someone else while it was written")]
    Changed {
        /// Kind, namespace and name.
        what: String,
    },
    /// Another replica holds the Lease, or it could not be renewed in time.
    #[error("Lease {name} is lost: another replica leads now")]
    LeaseLost {
        /// Its name.
        name: String,
    },
    /// Every identity number of the cluster is taken by other label sets.
    #[error("no free identity number in {low}..={high}: all {count} are taken")]
    IdentitiesExhausted {
        /// First number of the range.
        low: u32,
        /// Last number of the range.
        high: u32,
        /// How many were probed.
        count: u32,
    },
}

impl Error {
    pub(crate) fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
        let what = what.into();
        move |source| Error::Api { what, source: Box::new(source) }
    }
}

/// A client error in one line, with the advice that belongs to its status.
pub(crate) fn readable(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => {
            let advice = match status.code {
                401 => " (the credentials are not accepted)",
                403 => " (the service account lacks this permission)",
                404 => " (the object or its CRD does not exist)",
                _ => "",
            };
            format!("{}{advice}", status.message)
        }
        other => {
            // The outermost text of transport errors says little: show the chain.
            let mut text = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(cause) = source {
                let cause_text = cause.to_string();
                if !text.contains(&cause_text) {
                    text = format!("{text}: {cause_text}");
                }
                source = cause.source();
            }
            text
        }
    }
}
