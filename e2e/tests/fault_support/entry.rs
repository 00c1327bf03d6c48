//! What the fault tests share: one lab for many tests, acting on it, traffic that must not be lost, and reading back.
//!
//! Compiled into each test program; a test program declares it with `#[path]`. Must not know any particular fault.

pub(crate) mod census;
pub(crate) mod dice;
pub(crate) mod etcd;
pub(crate) mod flow;
pub(crate) mod notices;
pub(crate) mod rig;
pub(crate) mod shared;
