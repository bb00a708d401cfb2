//! What can go wrong between us and the kernel.

use std::path::PathBuf;

/// A failed operation on the node; each names what it was about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the node was told cannot be.
    #[error("the configuration of the datapath cannot be used: {0}")]
    Config(String),
    /// A program or map object could not be loaded.
    #[error("cannot load the BPF object {object}: {source}")]
    Load {
        /// Which of ours.
        object: &'static str,
        /// aya's error, with the verifier's log if there is one.
        source: Box<aya::EbpfError>,
    },
    /// A program could not be loaded or attached.
    #[error("cannot {what} BPF program {program}: {source}")]
    Program {
        /// The program.
        program: String,
        /// What was being done.
        what: &'static str,
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
    /// A link or map could not be pinned, or its pin not used.
    #[error("cannot use the pin {path}: {why}")]
    Pin {
        /// The path in bpffs.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A map refused an operation.
    #[error("map {map}: {source}")]
    Map {
        /// The map.
        map: &'static str,
        /// Why.
        source: aya::maps::MapError,
    },
    /// The kernel refused a netlink request.
    #[error("cannot {what}: {source}")]
    Netlink {
        /// What was being done, with the names involved.
        what: String,
        /// Why.
        source: Box<rtnetlink::Error>,
    },
    /// A file or namespace could not be used.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was being done, with the path involved.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// No address is left.
    #[error("no address is left in {0}; delete pods or give the node a larger pod CIDR")]
    PoolEmpty(String),
    /// An address that cannot be taken.
    #[error("address {ip} cannot be used: {why}")]
    Address {
        /// The address.
        ip: std::net::IpAddr,
        /// Why.
        why: &'static str,
    },
    /// Something that should be there is not, or is not as it should be.
    #[error("endpoint {container_id}: {why}")]
    Endpoint {
        /// The sandbox.
        container_id: String,
        /// What is wrong.
        why: String,
    },
    /// The masquerade rules were refused.
    #[error("cannot set the masquerade rules: {0}")]
    Masquerade(String),
}

impl Error {
    pub(crate) fn io(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }
}
