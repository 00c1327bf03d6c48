//! The report that is given when a network has no address left: who holds what, and what to do.

use std::cmp::Reverse;
use std::error::Error;
use std::fmt;

use ipnetwork::IpNetwork;

use crate::block::BlockLayout;
use crate::reserved::ReservedAddresses;
use crate::subnet::Subnet;

/// Owners that the report lists; the rest are summed up.
const LISTED_OWNERS: usize = 10;

/// What one node has of a network's addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnerUsage {
    /// The node, as a user knows it.
    pub owner: String,
    /// Blocks that it owns.
    pub blocks: usize,
    /// Addresses that its endpoints have, in its own blocks or elsewhere.
    pub held: usize,
    /// Addresses in its blocks that no endpoint has.
    pub free: usize,
    /// How many of the free ones are cooling down; only the owner knows.
    pub cooling: Option<usize>,
}

/// A network has no address left to hand out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exhaustion {
    subnet: Subnet,
    range: IpNetwork,
    /// Addresses of the range, the reserved ones included.
    capacity: u128,
    reserved: usize,
    resting_blocks: usize,
    owners: Vec<OwnerUsage>,
}

impl Exhaustion {
    /// Composes the report. `resting_blocks` are blocks that have left one owner and cannot be
    /// claimed yet.
    pub fn new(
        layout: &BlockLayout,
        reserved: &ReservedAddresses,
        resting_blocks: usize,
        mut owners: Vec<OwnerUsage>,
    ) -> Self {
        owners.sort_by(|a, b| {
            (Reverse(a.held), Reverse(a.blocks), &a.owner).cmp(&(
                Reverse(b.held),
                Reverse(b.blocks),
                &b.owner,
            ))
        });
        Self {
            subnet: layout.subnet(),
            range: layout.range(),
            capacity: layout.block_count() * u128::from(layout.block_size()),
            reserved: reserved.count_in(layout.range()),
            resting_blocks,
            owners,
        }
    }

    /// The subnet that is full.
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// Addresses that endpoints can have.
    pub fn usable(&self) -> u128 {
        self.capacity - self.reserved as u128
    }

    /// What each node has, the one that holds most first.
    pub fn owners(&self) -> &[OwnerUsage] {
        &self.owners
    }

    /// The report's first line, without the list of owners: for a log.
    pub fn headline(&self) -> String {
        let range = if self.range == self.subnet.network() {
            String::new()
        } else {
            format!(" (range {})", self.range)
        };
        format!(
            "no free address in subnet {}{range}: {}, {} reserved, {} usable",
            self.subnet,
            counted(self.capacity, "address", "addresses"),
            self.reserved,
            self.usable(),
        )
    }

    /// Each node's gateway leg has an address of its own; worth saying when the legs of those that
    /// own anything take a quarter of the addresses or more.
    fn legs_matter(&self) -> bool {
        !self.owners.is_empty() && self.owners.len() as u128 * 4 >= self.usable()
    }

    fn write_owners(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for usage in self.owners.iter().take(LISTED_OWNERS) {
            writeln!(f, "  {usage}")?;
        }
        let rest = self.owners.get(LISTED_OWNERS..).unwrap_or_default();
        if !rest.is_empty() {
            let blocks: usize = rest.iter().map(|usage| usage.blocks).sum();
            let held: usize = rest.iter().map(|usage| usage.held).sum();
            let free: usize = rest.iter().map(|usage| usage.free).sum();
            writeln!(
                f,
                "  {} more: {}, {held} held, {free} free",
                counted(rest.len() as u128, "node", "nodes"),
                counted(blocks as u128, "block", "blocks"),
            )?;
        }
        Ok(())
    }
}

impl Error for Exhaustion {}

impl fmt::Display for Exhaustion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.headline())?;
        self.write_owners(f)?;
        if self.resting_blocks > 0 {
            let blocks = counted(self.resting_blocks as u128, "block", "blocks");
            writeln!(
                f,
                "  {blocks} between owners, free again within two minutes"
            )?;
        }
        if self.legs_matter() {
            writeln!(
                f,
                "each node uses one address for its own gateway leg: {} of the {} here",
                self.owners.len(),
                self.usable(),
            )?;
        }
        write!(
            f,
            "remove containers, or make the network with a larger --subnet"
        )
    }
}

impl fmt::Display for OwnerUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blocks = counted(self.blocks as u128, "block", "blocks");
        write!(
            f,
            "{}: {blocks}, {} held, {} free",
            self.owner, self.held, self.free
        )?;
        match self.cooling {
            Some(cooling) => write!(f, " ({cooling} cooling)"),
            None => Ok(()),
        }
    }
}

fn counted(count: u128, one: &str, many: &str) -> String {
    let noun = if count == 1 { one } else { many };
    format!("{count} {noun}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subnet::range::IpRange;

    #[test]
    fn says_who_holds_what_and_what_to_do() {
        let report = exhaustion("10.9.0.0/29", 1, vec![usage("h1", 1), usage("h2", 3)]);

        assert_eq!(
            report.to_string(),
            "no free address in subnet 10.9.0.0/29: 8 addresses, 3 reserved, 5 usable\n  \
             h2: 3 blocks, 3 held, 0 free (0 cooling)\n  \
             h1: 1 block, 1 held, 0 free (0 cooling)\n  \
             1 block between owners, free again within two minutes\n\
             each node uses one address for its own gateway leg: 2 of the 5 here\n\
             remove containers, or make the network with a larger --subnet"
        );
    }

    #[test]
    fn sums_up_a_long_list_and_leaves_out_what_does_not_matter() {
        let owners = (0..14)
            .map(|node| OwnerUsage {
                cooling: None,
                ..usage(&format!("h{node:02}"), 10)
            })
            .collect();

        let text = exhaustion("10.9.0.0/22", 0, owners).to_string();

        assert!(
            text.contains("  h09: 10 blocks, 10 held, 0 free\n"),
            "{text}"
        );
        assert!(!text.contains("h10"), "{text}");
        assert!(
            text.contains("  4 nodes more: 40 blocks, 40 held, 0 free\n"),
            "{text}"
        );
        assert!(
            !text.contains("leg") && !text.contains("between owners"),
            "{text}"
        );
    }

    #[test]
    fn names_the_range_when_it_is_not_the_whole_subnet() {
        let subnet: Subnet = "10.9.0.0/16".parse().unwrap();
        let range = IpRange::parse(subnet, "10.9.0.0/28").unwrap();
        let layout = BlockLayout::new(subnet, Some(range), 32).unwrap();
        let reserved = ReservedAddresses::new(subnet, &[subnet.default_gateway()], &[]).unwrap();

        let report = Exhaustion::new(&layout, &reserved, 0, Vec::new());

        assert_eq!(
            report.headline(),
            "no free address in subnet 10.9.0.0/16 (range 10.9.0.0/28): \
             16 addresses, 2 reserved, 14 usable"
        );
    }

    fn exhaustion(subnet: &str, resting: usize, owners: Vec<OwnerUsage>) -> Exhaustion {
        let subnet: Subnet = subnet.parse().unwrap();
        let layout = BlockLayout::new(subnet, None, crate::block_prefix_len(subnet, None)).unwrap();
        let reserved = ReservedAddresses::new(subnet, &[subnet.default_gateway()], &[]).unwrap();
        Exhaustion::new(&layout, &reserved, resting, owners)
    }

    fn usage(owner: &str, held: usize) -> OwnerUsage {
        OwnerUsage {
            owner: owner.to_owned(),
            blocks: held,
            held,
            free: 0,
            cooling: Some(0),
        }
    }
}
