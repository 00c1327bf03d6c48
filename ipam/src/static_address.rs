//! Judgement of an address that a user chose (`--ip`).
//!
//! Any free address of the subnet will do, whoever owns the block that it is in, because the
//! endpoint record is what makes it unique. The one exception is the offline reserve of another
//! node's block, which that node may hand out without asking. Whether the address is free is not
//! judged here: only the record can tell.

use std::net::IpAddr;

use thiserror::Error;

use crate::block::{Block, BlockLayout, offline_reserve};
use crate::reserved::{Reserved, ReservedAddresses};
use crate::subnet::Subnet;

/// Who owns a block, seen from the node that asks; `N` names a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockOwner<N> {
    /// The node that asks.
    Own,
    /// Another node.
    Other(N),
}

/// What an address that a user chose is to the node that was asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StaticVerdict<N> {
    /// Not of the subnet: refuse.
    OutsideSubnet,
    /// No endpoint may have it: refuse.
    Reserved(Reserved),
    /// In a block of this node: take it from the pool and register it as any other.
    InOwnBlock(Block),
    /// In nobody's block, or outside the range of blocks: register it without a block.
    Unowned,
    /// In a block of another node.
    InForeignBlock {
        /// That node.
        owner: N,
        /// That block.
        block: Block,
        /// Whether it is in the block's offline reserve: then refuse, else register it without a
        /// block.
        reserve: bool,
    },
}

/// Why an address that a user chose is refused without a look at who has it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StaticRefusal {
    /// Not of the subnet.
    #[error("address {ip} is outside subnet {subnet}; choose one inside it with --ip")]
    OutsideSubnet {
        /// What was asked for.
        ip: IpAddr,
        /// The subnet.
        subnet: Subnet,
    },
    /// No endpoint may have it.
    #[error("address {ip} is {reason} of subnet {subnet}; choose another with --ip")]
    Reserved {
        /// What was asked for.
        ip: IpAddr,
        /// Why it is reserved.
        reason: Reserved,
        /// The subnet.
        subnet: Subnet,
    },
    /// In the offline reserve of another node's block.
    #[error(
        "address {ip} is kept by node {owner}, which may hand out {first} to {last} while the store is away; choose another with --ip, or start the container there"
    )]
    OfflineReserve {
        /// What was asked for.
        ip: IpAddr,
        /// The node that keeps it.
        owner: String,
        /// First address that is kept in that block.
        first: IpAddr,
        /// Last address that is kept in that block.
        last: IpAddr,
    },
}

/// Judges `ip`; `owner_of` says who owns a block, if anybody does.
pub fn judge_static<N>(
    ip: IpAddr,
    layout: &BlockLayout,
    reserved: &ReservedAddresses,
    owner_of: impl FnOnce(Block) -> Option<BlockOwner<N>>,
) -> StaticVerdict<N> {
    if !layout.subnet().contains(ip) {
        return StaticVerdict::OutsideSubnet;
    }
    if let Some(reason) = reserved.reason(ip) {
        return StaticVerdict::Reserved(reason);
    }
    let Some(block) = layout.block_of(ip) else {
        return StaticVerdict::Unowned;
    };
    match owner_of(block) {
        None => StaticVerdict::Unowned,
        Some(BlockOwner::Own) => StaticVerdict::InOwnBlock(block),
        Some(BlockOwner::Other(owner)) => StaticVerdict::InForeignBlock {
            owner,
            block,
            reserve: offline_reserve(block).is_some_and(|kept| kept.contains(&ip)),
        },
    }
}

impl<N: ToString> StaticVerdict<N> {
    /// The refusal of `ip` that follows from the verdict; none if registering it may be tried.
    pub fn refusal(&self, ip: IpAddr, subnet: Subnet) -> Option<StaticRefusal> {
        match self {
            Self::OutsideSubnet => Some(StaticRefusal::OutsideSubnet { ip, subnet }),
            Self::Reserved(reason) => {
                let reason = *reason;
                Some(StaticRefusal::Reserved { ip, reason, subnet })
            }
            Self::InForeignBlock {
                owner,
                block,
                reserve: true,
            } => offline_reserve(*block).map(|kept| StaticRefusal::OfflineReserve {
                ip,
                owner: owner.to_string(),
                first: *kept.start(),
                last: *kept.end(),
            }),
            Self::InForeignBlock { reserve: false, .. } | Self::InOwnBlock(_) | Self::Unowned => {
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subnet::range::IpRange;

    #[test]
    fn judges_by_the_block_that_the_address_is_in() {
        let layout = BlockLayout::new("10.0.0.0/20".parse().unwrap(), None, 28).unwrap();
        let cases = [
            ("10.1.0.5", StaticVerdict::OutsideSubnet),
            ("fd00::5", StaticVerdict::OutsideSubnet),
            ("10.0.0.1", StaticVerdict::Reserved(Reserved::Gateway)),
            ("10.0.15.255", StaticVerdict::Reserved(Reserved::Broadcast)),
            ("10.0.0.5", StaticVerdict::InOwnBlock(block("10.0.0.0", 28))),
            ("10.0.0.17", foreign(block("10.0.0.16", 28), false)),
            ("10.0.0.27", foreign(block("10.0.0.16", 28), false)),
            ("10.0.0.28", foreign(block("10.0.0.16", 28), true)),
            ("10.0.0.31", foreign(block("10.0.0.16", 28), true)),
            ("10.0.0.33", StaticVerdict::Unowned),
        ];
        for (address, expected) in cases {
            assert_eq!(judge(address, &layout), expected, "{address}");
        }
    }

    #[test]
    fn an_address_outside_the_range_of_blocks_is_unowned() {
        let subnet = "10.0.0.0/20".parse().unwrap();
        let range = IpRange::parse(subnet, "10.0.8.0/21").unwrap();
        let layout = BlockLayout::new(subnet, Some(range), 28).unwrap();

        assert_eq!(judge("10.0.0.17", &layout), StaticVerdict::Unowned);
    }

    #[test]
    fn blocks_of_one_address_have_no_reserve() {
        let layout = BlockLayout::new("10.0.0.0/24".parse().unwrap(), None, 32).unwrap();

        assert_eq!(
            judge("10.0.0.17", &layout),
            foreign(block("10.0.0.17", 32), false)
        );
    }

    #[test]
    fn a_refusal_names_address_reason_and_remedy() {
        let layout = BlockLayout::new("10.0.0.0/20".parse().unwrap(), None, 28).unwrap();
        let cases = [
            ("10.1.0.5", Some("10.1.0.5 is outside subnet 10.0.0.0/20")),
            (
                "10.0.0.1",
                Some("10.0.0.1 is a gateway of subnet 10.0.0.0/20"),
            ),
            (
                "10.0.0.28",
                Some("kept by node h2, which may hand out 10.0.0.28 to 10.0.0.31"),
            ),
            ("10.0.0.27", None),
            ("10.0.0.5", None),
            ("10.0.0.33", None),
        ];
        for (address, expected) in cases {
            let refusal = judge(address, &layout).refusal(ip(address), layout.subnet());
            let text = refusal.map(|refusal| refusal.to_string());
            assert_eq!(text.is_some(), expected.is_some(), "{text:?}");
            if let (Some(text), Some(expected)) = (text, expected) {
                assert!(text.contains(expected) && text.contains("--ip"), "{text}");
            }
        }
    }

    /// The first block is this node's, the second (and 10.0.0.17 alone) node h2's.
    fn judge(address: &str, layout: &BlockLayout) -> StaticVerdict<&'static str> {
        let subnet = layout.subnet();
        let reserved = ReservedAddresses::new(subnet, &[subnet.default_gateway()], &[]).unwrap();
        judge_static(ip(address), layout, &reserved, |block| {
            match block.base().to_string().as_str() {
                "10.0.0.0" => Some(BlockOwner::Own),
                "10.0.0.16" | "10.0.0.17" => Some(BlockOwner::Other("h2")),
                _ => None,
            }
        })
    }

    fn foreign(block: Block, reserve: bool) -> StaticVerdict<&'static str> {
        StaticVerdict::InForeignBlock {
            owner: "h2",
            block,
            reserve,
        }
    }

    fn block(base: &str, prefix_len: u8) -> Block {
        Block::new(ip(base), prefix_len).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }
}
