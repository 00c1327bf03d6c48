//! The per-host daemon of Weft.

pub mod firewall;
pub mod netns;
