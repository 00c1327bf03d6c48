//! Blocks: the aligned parts of a subnet that nodes claim.
//!
//! All blocks of a network have one size, fixed when the network is made, and tile the range that
//! addresses are handed out from; so two blocks are equal or disjoint. Owns the choice of the size,
//! the arithmetic, and the order in which a node looks for a block to claim. Who owns which block
//! is not known here.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;
use thiserror::Error;

use crate::reserved::ReservedAddresses;
use crate::subnet::Subnet;
use crate::subnet::range::IpRange;
use crate::{address, seed};

/// Most addresses that one block may have: a node keeps a few bytes for each, and a block is the
/// least that it can own.
pub const MAX_BLOCK_SIZE: u32 = 4096;

/// Most blocks that one search visits. Every IPv4 layout that [`block_prefix_len`] chooses has at
/// most so many; in a larger IPv6 layout a search ends early only after as many claimed blocks in
/// a row.
pub const SEARCH_LIMIT: u128 = 1 << 18;

/// An aligned range of addresses that one node may hand out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    base: IpAddr,
    prefix_len: u8,
}

/// How a subnet, or the range of it that addresses are handed out from, is cut into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockLayout {
    subnet: Subnet,
    range: IpNetwork,
    prefix_len: u8,
}

/// Why a block or a layout cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BlockError {
    /// No prefix length of that family.
    #[error("block {base}/{prefix_len} has no valid prefix length; the record is damaged")]
    PrefixLen {
        /// First address.
        base: IpAddr,
        /// The length given.
        prefix_len: u8,
    },
    /// The base is not the first address of a range of that length.
    #[error("block {base}/{prefix_len} is not aligned; the record is damaged")]
    Unaligned {
        /// First address.
        base: IpAddr,
        /// The length given.
        prefix_len: u8,
    },
    /// Larger than the range that it should be a part of.
    #[error(
        "blocks of length /{prefix_len} do not fit into {range}; make the network with a larger --ip-range or --subnet"
    )]
    LargerThanRange {
        /// The range that is cut into blocks.
        range: IpNetwork,
        /// The length given.
        prefix_len: u8,
    },
    /// More than [`MAX_BLOCK_SIZE`] addresses, or a length that the family does not have.
    #[error(
        "blocks of {range} cannot have length /{prefix_len}; use at most {MAX_BLOCK_SIZE} addresses"
    )]
    Size {
        /// The range that is cut into blocks.
        range: IpNetwork,
        /// The length given.
        prefix_len: u8,
    },
    /// A range of another subnet.
    #[error("range {range} is not inside subnet {subnet}; choose a part of it with --ip-range")]
    RangeOutside {
        /// The range.
        range: IpRange,
        /// The subnet.
        subnet: Subnet,
    },
    /// Not one of the layout's blocks.
    #[error(
        "block {block} is none of the /{prefix_len} blocks of {range}; the record is damaged or of another network"
    )]
    Foreign {
        /// The block.
        block: Block,
        /// The range that is cut into blocks.
        range: IpNetwork,
        /// The length of its blocks.
        prefix_len: u8,
    },
}

/// The prefix length of a network's blocks, chosen once, when the network is made.
///
/// It depends on the range that addresses are handed out from: the subnet, or its `--ip-range`.
/// Blocks should be at least four times as many as nodes, so that a node that holds little does
/// not keep others from growing; and large, so that a claim is rare.
///
/// | IPv4 range | block | blocks | | IPv6 range | block | blocks |
/// |---|---|---|---|---|---|---|
/// | /8 to /14 | /26 | 262,144 to 4,096 | | /48 to /119 | /124 | 2^76 to 32 |
/// | /15 to /17 | /27 | 4,096 to 1,024 | | /120 and longer | /128 | 256 and fewer |
/// | /18 to /21 | /28 | 1,024 to 128 | | | | |
/// | /22 | /29 | 128 | | | | |
/// | /23 | /30 | 128 | | | | |
/// | /24 and longer | /32 | 256 and fewer | | | | |
///
/// A block of one address makes a claim and an allocation the same thing.
pub fn block_prefix_len(subnet: Subnet, range: Option<IpRange>) -> u8 {
    let range = handed_out(subnet, range);
    match (range, range.prefix()) {
        (IpNetwork::V4(_), ..=14) => 26,
        (IpNetwork::V4(_), 15..=17) => 27,
        (IpNetwork::V4(_), 18..=21) => 28,
        (IpNetwork::V4(_), 22) => 29,
        (IpNetwork::V4(_), 23) => 30,
        (IpNetwork::V4(_), 24..) => 32,
        (IpNetwork::V6(_), ..=119) => 124,
        (IpNetwork::V6(_), 120..) => 128,
    }
}

/// The addresses of a block that only its owner may hand out, so that it can go on while the store
/// is away: the top quarter. Blocks of fewer than four addresses keep none.
pub fn offline_reserve(block: Block) -> Option<RangeInclusive<IpAddr>> {
    let kept = u128::from(block.size() / 4);
    let (_, last) = address::span(block.network());
    (kept > 0).then(|| {
        let first = address::with_bits(block.base, last - (kept - 1));
        first..=address::with_bits(block.base, last)
    })
}

impl Block {
    /// A block from its first address and prefix length, as a record holds them.
    pub fn new(base: IpAddr, prefix_len: u8) -> Result<Self, BlockError> {
        let network = IpNetwork::new(base, prefix_len)
            .map_err(|_| BlockError::PrefixLen { base, prefix_len })?;
        if u32::from(address::width(base) - prefix_len) > MAX_BLOCK_SIZE.ilog2() {
            return Err(BlockError::PrefixLen { base, prefix_len });
        }
        if network.network() != base {
            return Err(BlockError::Unaligned { base, prefix_len });
        }
        Ok(Self { base, prefix_len })
    }

    /// The first address, which names the block.
    pub fn base(&self) -> IpAddr {
        self.base
    }

    /// Number of leading bits that all addresses share.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// The block as a plain network.
    pub fn network(&self) -> IpNetwork {
        IpNetwork::new(self.base, self.prefix_len).expect("the length was checked when it was made")
    }

    /// Number of addresses, the reserved ones included; at most [`MAX_BLOCK_SIZE`].
    pub fn size(&self) -> u32 {
        1 << (address::width(self.base) - self.prefix_len)
    }

    /// Whether `ip` is one of the block's addresses.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.network().contains(ip)
    }

    /// All addresses in order, the reserved ones included.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let base = self.base;
        let first = address::bits(base);
        (0..self.size()).map(move |offset| address::with_bits(base, first + u128::from(offset)))
    }

    /// The place of `ip` in the block, from 0.
    pub(crate) fn offset(&self, ip: IpAddr) -> Option<usize> {
        self.contains(ip)
            .then(|| address::bits(ip) - address::bits(self.base))
            .and_then(|offset| usize::try_from(offset).ok())
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_len)
    }
}

impl BlockLayout {
    /// Cuts `subnet`, or the part of it given by `range`, into blocks of `prefix_len`.
    pub fn new(subnet: Subnet, range: Option<IpRange>, prefix_len: u8) -> Result<Self, BlockError> {
        if let Some(range) = range
            && !address::nests(subnet.network(), range.network())
        {
            return Err(BlockError::RangeOutside { range, subnet });
        }
        let range = handed_out(subnet, range);
        let width = address::width(subnet.base());
        if prefix_len > width || u32::from(width - prefix_len) > MAX_BLOCK_SIZE.ilog2() {
            return Err(BlockError::Size { range, prefix_len });
        }
        if prefix_len < range.prefix() {
            return Err(BlockError::LargerThanRange { range, prefix_len });
        }
        Ok(Self {
            subnet,
            range,
            prefix_len,
        })
    }

    /// The whole subnet.
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// The part of the subnet that is cut into blocks.
    pub fn range(&self) -> IpNetwork {
        self.range
    }

    /// Prefix length of every block.
    pub fn block_prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// Number of addresses in every block.
    pub fn block_size(&self) -> u32 {
        1 << (address::width(self.subnet.base()) - self.prefix_len)
    }

    /// Number of blocks, claimed or not; at most 2^80.
    pub fn block_count(&self) -> u128 {
        1 << (self.prefix_len - self.range.prefix())
    }

    /// The block that holds `ip`; none outside the range that is cut into blocks.
    pub fn block_of(&self, ip: IpAddr) -> Option<Block> {
        let offset = address::bits(ip).checked_sub(address::bits(self.range.ip()))?;
        self.range
            .contains(ip)
            .then(|| self.block_at(offset / u128::from(self.block_size())))
    }

    /// Checks that `block` is one of the layout's.
    pub fn check_block(&self, block: Block) -> Result<(), BlockError> {
        if self.block_of(block.base) == Some(block) {
            return Ok(());
        }
        Err(BlockError::Foreign {
            block,
            range: self.range,
            prefix_len: self.prefix_len,
        })
    }

    /// The blocks that a node may try to claim, best first.
    ///
    /// Starts at a place given by `seed` (one per node, so that rivals diverge) and goes round,
    /// leaving out blocks that `is_claimed` and those of which every address is reserved. Visits at
    /// most [`SEARCH_LIMIT`] blocks, lazily.
    pub fn candidates<'a>(
        &self,
        seed: u64,
        reserved: &'a ReservedAddresses,
        is_claimed: impl Fn(Block) -> bool + 'a,
    ) -> impl Iterator<Item = Block> + 'a {
        let layout = *self;
        let count = self.block_count();
        let start = seed::place(seed, count);
        (0..count.min(SEARCH_LIMIT))
            .map(move |step| layout.block_at((start + step) % count))
            .filter(move |block| !is_claimed(*block) && has_usable_address(*block, reserved))
    }

    /// The block with the number `index` from the start of the range.
    fn block_at(&self, index: u128) -> Block {
        let offset = index * u128::from(self.block_size());
        Block {
            base: address::with_bits(self.range.ip(), address::bits(self.range.ip()) + offset),
            prefix_len: self.prefix_len,
        }
    }
}

/// What is cut into blocks: the range if there is one, else the whole subnet.
fn handed_out(subnet: Subnet, range: Option<IpRange>) -> IpNetwork {
    range.map_or_else(|| subnet.network(), |range| range.network())
}

fn has_usable_address(block: Block, reserved: &ReservedAddresses) -> bool {
    u32::try_from(reserved.count_in(block.network())).is_ok_and(|count| count < block.size())
}

#[cfg(test)]
mod tests;
