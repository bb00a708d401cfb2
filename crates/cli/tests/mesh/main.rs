//! The whole system as its users run it: labs of the built executable, stock kubectl, real packets.

mod agent;
mod clusters;
mod control_plane;
mod dual_stack;
mod failover;
mod forwarding;
mod health;
mod names;
mod native;
mod operator;
mod servers;
mod services;
mod steps;
