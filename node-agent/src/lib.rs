//! The per-host daemon.

pub mod names;
