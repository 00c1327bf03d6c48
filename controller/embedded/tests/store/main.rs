//! The embedded store beside Debian's etcd: what a client sees, what survives, and that each checker finds its fault.

mod conformance;
mod crash;
mod differential;
mod operations;
mod servers;
mod witness;
