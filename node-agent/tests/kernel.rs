//! The kernel adapter against the real kernel, in namespaces that the tests make for themselves. Needs root.

#![expect(clippy::unwrap_used, reason = "a test that cannot prepare its namespaces has failed")]

#[path = "kernel/lab.rs"]
mod lab;

#[path = "kernel/conflicts.rs"]
mod conflicts;
#[path = "kernel/facts.rs"]
mod facts;
#[path = "kernel/frames.rs"]
mod frames;
#[path = "kernel/musts.rs"]
mod musts;
#[path = "kernel/namespace.rs"]
mod namespace;
#[path = "kernel/repair.rs"]
mod repair;
#[path = "kernel/round_trip.rs"]
mod round_trip;
#[path = "kernel/scenarios.rs"]
mod scenarios;
#[path = "kernel/watching.rs"]
mod watching;
