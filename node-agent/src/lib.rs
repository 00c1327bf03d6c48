//! The per-host daemon of Weft.

pub mod api;
pub mod netns;
pub mod reconciler;
