//! Why a pool refuses an operation. A refusal never changes the pool.

use std::net::IpAddr;

use thiserror::Error;

use crate::block::{Block, BlockError};
use crate::reserved::Reserved;

/// Why an operation was refused; nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The block is none of the network's.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The pool has the block already.
    #[error("block {block} is in the pool already")]
    BlockOwned {
        /// The block.
        block: Block,
    },
    /// The pool does not have the block.
    #[error("block {block} is not in the pool")]
    BlockNotOwned {
        /// The block.
        block: Block,
    },
    /// Endpoints of this node have addresses in the block.
    #[error("block {block} has {held} addresses in use; remove their endpoints first")]
    BlockInUse {
        /// The block.
        block: Block,
        /// How many.
        held: usize,
    },
    /// The address is in none of the pool's blocks.
    #[error("address {ip} is in no block of this node")]
    NotOwned {
        /// The address.
        ip: IpAddr,
    },
    /// No endpoint may have the address.
    #[error("address {ip} is {reason}; choose another with --ip")]
    Reserved {
        /// The address.
        ip: IpAddr,
        /// Why it is reserved.
        reason: Reserved,
    },
    /// An endpoint of this node has the address.
    #[error("address {ip} is in use on this node; choose another with --ip")]
    Held {
        /// The address.
        ip: IpAddr,
    },
    /// An endpoint of another node has the address.
    #[error("address {ip} is in use on another node; choose another with --ip")]
    Foreign {
        /// The address.
        ip: IpAddr,
    },
    /// Released, but held by nobody here.
    #[error("address {ip} is not held on this node")]
    NotHeld {
        /// The address.
        ip: IpAddr,
    },
    /// Said to be left by another node, but no endpoint of another node was there.
    #[error("address {ip} has no endpoint of another node")]
    NotForeign {
        /// The address.
        ip: IpAddr,
    },
}
