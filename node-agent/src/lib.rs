//! The per-host daemon of Weft.

pub mod agent;
pub mod api;
pub mod container;
pub mod control;
pub mod docker;
pub mod doctor;
pub mod firewall;
pub mod identity;
pub mod kernel;
pub mod names;
pub mod netns;
mod privilege;
pub mod reconciler;
pub mod underlay;
