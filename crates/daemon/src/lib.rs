//! What every process of Causeway needs: configuration, logs, metrics, health, shutdown.
//!
//! Each role of the executable calls, in this order: [`config::Loader`] for its settings,
//! [`logs::init`], [`shutdown::Shutdown::on_signals`], then serves [`health::Health`] while its
//! tasks run, and ends with [`shutdown::Shutdown::finish`]. Nothing here knows what a mesh is.

pub mod config;
pub mod duration;
pub mod health;
pub mod logs;
pub mod memory;
pub mod metrics;
pub mod shutdown;

use std::path::PathBuf;

/// What can go wrong before a process does any work; the text names the thing and the fix.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting without a default was given nowhere.
    #[error(
        "setting `{name}` is missing: give --{name}, the environment variable CAUSEWAY_{env}, or the key `{name}` in the configuration directory"
    )]
    Missing {
        /// The setting.
        name: &'static str,
        /// The tail of its environment variable.
        env: String,
    },
    /// A setting whose value does not parse.
    #[error("setting `{name}` = {value:?} (from {origin}) is invalid: {reason}")]
    Invalid {
        /// The setting.
        name: &'static str,
        /// The refused value.
        value: String,
        /// Where the value came from.
        origin: config::Origin,
        /// Why it was refused.
        reason: String,
    },
    /// The configuration directory exists but cannot be read.
    #[error("cannot read configuration directory {path}: {source}")]
    ConfigDir {
        /// The directory or the file in it.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A log filter that does not parse.
    #[error("log filter {filter:?} is invalid: {reason}; example: info,causeway_mesh=debug")]
    LogFilter {
        /// The refused filter.
        filter: String,
        /// Why it was refused.
        reason: String,
    },
    /// A socket that cannot be opened.
    #[error("cannot listen on {address}: {source}; is another process using the port?")]
    Listen {
        /// The address asked for.
        address: std::net::SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Signal handlers could not be installed.
    #[error("cannot install signal handlers: {0}")]
    Signals(std::io::Error),
}
