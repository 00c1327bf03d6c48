//! The per-host daemon of Weft.

pub mod netns;
