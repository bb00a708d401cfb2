//! Why a lab cannot do what it was asked.

/// An error of the lab.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The topology is refused.
    #[error(transparent)]
    Topology(#[from] crate::topology::Error),
    /// This machine cannot carry a lab; nothing was changed.
    #[error("{0}")]
    Preflight(String),
    /// A system call or file failed.
    #[error(transparent)]
    System(#[from] crate::runtime::Error),
    /// The Kubernetes API of a cluster refused or did not answer.
    #[error("API server of cluster {cluster}: {source}")]
    Api {
        /// The cluster.
        cluster: String,
        /// What it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server could not start.
    #[error(transparent)]
    ApiServer(#[from] crate::apiserver::Error),
    /// The controllers could not start.
    #[error(transparent)]
    Controllers(#[from] crate::controllers::Error),
    /// The kubelet could not start.
    #[error(transparent)]
    Kubelet(#[from] crate::kubelet::Error),
    /// A certificate could not be made.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// Everything else, in one sentence with what to do.
    #[error("{0}")]
    Refused(String),
    /// What the caller does at the end of `up` failed.
    #[error("{0}")]
    Hook(String),
}

/// Result of the lab.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A refusal in one sentence.
    pub(crate) fn refused(text: impl Into<String>) -> Error {
        Error::Refused(text.into())
    }
}
