//! The per-host daemon of Weft.

pub mod kernel;
pub mod netns;
