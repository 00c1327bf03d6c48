//! What an agent says to and hears from the store: who it is, what it follows, which addresses it hands out.
//!
//! Everything here is generic over the [`Store`](weft_overlay::store::Store) port, takes its time from `tokio::time` and
//! its randomness from the caller, and touches neither kernel nor file. No safety rests on what is remembered here: every
//! write names the conditions under which it is right, and the store decides. Every `select!` here is biased, so that a run
//! under a virtual clock can be repeated.

pub mod allocation;
pub mod backoff;
pub mod endpoints;
pub mod follow;
pub mod membership;
pub mod networks;
pub mod nodes;
pub mod registration;
pub mod submit;
#[cfg(test)]
mod testing;
