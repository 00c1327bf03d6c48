//! What an overlay network is.
//!
//! Reads top-down as the story of the system: [`id`] names things, [`model`] says what is stored, [`keys`] where,
//! [`txn`] how it is changed, [`claims`] which changes there are. Everything but [`store`] (feature `store`) is pure: no clock, no file, no socket.

pub mod cause;
pub mod claims;
pub mod codec;
pub mod desired;
pub mod id;
pub mod kernel;
pub mod keys;
pub mod model;
pub mod plan;
#[cfg(feature = "store")]
pub mod store;
pub mod txn;
pub mod view;
