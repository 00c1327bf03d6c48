//! The embedded store beside Debian's etcd: what a client sees, what survives, and that each checker finds its fault.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, in helpers of tests too")]
#![expect(clippy::large_futures, reason = "a test's future is made once")]

mod clients;
mod conformance;
mod crash;
mod differential;
mod files;
mod guarantees;
mod leases;
mod lists;
mod operations;
mod power;
mod servers;
mod witness;
