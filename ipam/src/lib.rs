//! Which address: subnets, blocks, allocation, cooldown.
//!
//! A network has at most one subnet per address family. A subnet is cut into blocks of one fixed
//! size; a node claims whole blocks and hands out the addresses in them without asking anybody.
//! The endpoint record of each address, written once and only if absent, is what makes an address
//! unique; this crate chooses addresses so that the record is almost never there already.
//!
//! Everything here is pure: no I/O, no clock, no randomness, no iteration in random order. Time is
//! a [`std::time::Duration`] since a monotonic start of the caller's choosing, seeds are arguments.
//! Nothing here knows where blocks and endpoints are recorded.

pub mod block;
pub mod dual_stack;
pub mod exhaustion;
pub mod pool;
pub mod reserved;
pub mod static_address;
pub mod subnet;

mod address;
mod seed;

pub use block::{Block, BlockLayout, block_prefix_len, offline_reserve};
pub use dual_stack::DualStack;
pub use exhaustion::{Exhaustion, OwnerUsage};
pub use pool::{Counts, NodePool};
pub use reserved::{Reserved, ReservedAddresses};
pub use static_address::{BlockOwner, StaticVerdict, judge_static};
pub use subnet::choice::{choose_subnet, choose_ula};
pub use subnet::conflict::{Taken, first_conflict, overlap};
pub use subnet::range::IpRange;
pub use subnet::{Subnet, SubnetError};
