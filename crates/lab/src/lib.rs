//! Clusters out of network namespaces: real kernel, real packets, a Kubernetes API stock kubectl accepts.

pub mod apiserver;
pub mod cli;
pub mod control_plane;
pub mod controllers;
pub mod error;
pub mod fabric;
pub mod kubeconfig;
pub mod kubelet;
pub mod lab;
pub mod node;
pub mod preflight;
pub mod runtime;
pub mod state;
pub mod supervisor;
pub mod topology;
mod wait;
pub mod workload;

pub use error::{Error, Result};
pub use lab::{BoxError, Lab, LabOptions};
pub use topology::Topology;
