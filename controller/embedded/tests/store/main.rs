//! The embedded store beside Debian's etcd: what a client sees, what survives, and that each checker finds its fault.

mod clients;
mod conformance;
mod crash;
mod differential;
mod files;
mod guarantees;
mod leases;
mod operations;
mod power;
mod servers;
mod witness;
