//! The per-host daemon of Weft.

pub mod control;
pub mod netns;
