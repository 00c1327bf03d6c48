//! The agent: makes the parts, joins them, and runs until it is told to stop.

pub mod followers;
pub mod handle;
pub mod naming;
