//! Processes of pods: what happens between fork and exec ([`steps`]), starting and reaping them ([`spawn`]), and what a
//! sandbox, a container and a command inside a container consist of ([`container`]).
//!
//! Everything a child does before exec is prepared by the parent as a list of system calls, because after a fork in a
//! process with threads nothing may allocate or lock. A failing call is reported back by name.

pub mod cgroup;
pub mod container;
pub mod spawn;
pub mod steps;

pub use container::{Bind, ContainerSpec, ExecSpec, Propagation, SandboxSpec};
pub use spawn::{Exit, Process, SpawnError, Spawner};
