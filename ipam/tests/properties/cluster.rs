//! Several nodes that share one set of claims and one registry of endpoints.
//!
//! The registry refuses a second endpoint at an address, as the store does. What is checked is that
//! the nodes do not need it: apart from addresses that users chose, whose news travels slowly here,
//! no node ever offers an address that is registered.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use weft_ipam::pool::{DEFAULT_COOLDOWN, ForeignMark, MIN_RETURN_AGE};
use weft_ipam::{
    Block, BlockLayout, BlockOwner, NodePool, ReservedAddresses, StaticVerdict, Subnet,
    block_prefix_len, judge_static, offline_reserve,
};

const NODES: usize = 4;

#[derive(Debug, Clone)]
enum Event {
    Wait(u64),
    Attach(usize),
    AttachStatic { node: usize, address: Index },
    Detach { endpoint: Index },
    GiveBack(usize),
    ClaimAhead(usize),
    Hear(usize),
    Restart { node: usize, journal: bool },
}

fn event() -> impl Strategy<Value = Event> {
    let node = 0..NODES;
    prop_oneof![
        2 => (0..60_u64).prop_map(Event::Wait),
        10 => node.clone().prop_map(Event::Attach),
        2 => (node.clone(), any::<Index>())
            .prop_map(|(node, address)| Event::AttachStatic { node, address }),
        6 => any::<Index>().prop_map(|endpoint| Event::Detach { endpoint }),
        2 => node.clone().prop_map(Event::GiveBack),
        2 => node.clone().prop_map(Event::ClaimAhead),
        3 => node.clone().prop_map(Event::Hear),
        1 => (node, any::<bool>()).prop_map(|(node, journal)| Event::Restart { node, journal }),
    ]
}

proptest! {
    #[test]
    fn no_address_is_ever_held_twice(
        subnet in prop::sample::select(vec!["10.0.0.0/28", "10.0.0.0/23", "fd00::/121", "fd00::/64"]),
        events in prop::collection::vec(event(), 1..300),
    ) {
        let mut cluster = Cluster::new(subnet.parse().unwrap());
        for event in events {
            cluster.run(&event)?;
            cluster.check()?;
        }
    }

    #[test]
    fn a_network_is_used_to_the_last_address(seed in any::<u64>()) {
        let mut cluster = Cluster::new("10.0.0.0/27".parse().unwrap());
        cluster.seed = seed;

        for attempt in 0..29 {
            cluster.attach(attempt % NODES)?;
        }

        prop_assert_eq!(cluster.registry.len(), 29);
        let before = cluster.registry.clone();
        cluster.attach(0)?;
        prop_assert_eq!(&cluster.registry, &before);
    }
}

/// An endpoint in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Endpoint {
    node: usize,
    /// The user chose the address and it was registered without a block.
    without_block: bool,
}

/// What a node has not heard yet about addresses in its blocks.
#[derive(Debug, Clone, Copy)]
enum News {
    Registered(IpAddr),
    Removed(IpAddr),
}

struct Cluster {
    layout: BlockLayout,
    reserved: ReservedAddresses,
    pools: Vec<NodePool>,
    news: Vec<VecDeque<News>>,
    claims: BTreeMap<Block, usize>,
    registry: BTreeMap<IpAddr, Endpoint>,
    seed: u64,
    now: Duration,
}

impl Cluster {
    fn new(subnet: Subnet) -> Self {
        let layout = BlockLayout::new(subnet, None, block_prefix_len(subnet, None)).unwrap();
        let reserved = ReservedAddresses::new(subnet, &[subnet.default_gateway()], &[]).unwrap();
        let pool = NodePool::new(layout, reserved.clone(), DEFAULT_COOLDOWN);
        Self {
            layout,
            reserved,
            pools: vec![pool; NODES],
            news: vec![VecDeque::new(); NODES],
            claims: BTreeMap::new(),
            registry: BTreeMap::new(),
            seed: 0,
            now: Duration::ZERO,
        }
    }

    fn run(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match event {
            Event::Wait(seconds) => self.now += Duration::from_secs(*seconds),
            Event::Attach(node) => self.attach(*node)?,
            Event::AttachStatic { node, address } => self.attach_static(*node, address)?,
            Event::Detach { endpoint } => self.detach(endpoint),
            Event::GiveBack(node) => self.give_back(*node),
            Event::ClaimAhead(node) => {
                if self.pools[*node].needs_block(self.now) {
                    self.claim(*node);
                }
            }
            Event::Hear(node) => self.hear(*node),
            Event::Restart { node, journal } => self.restart(*node, *journal),
        }
        Ok(())
    }

    /// Offers addresses until the registry accepts one or nothing is left.
    fn attach(&mut self, node: usize) -> Result<(), TestCaseError> {
        while let Some(ip) = self.offer(node) {
            prop_assert!(self.layout.subnet().contains(ip));
            prop_assert_eq!(self.reserved.reason(ip), None);
            let Some(present) = self.registry.get(&ip) else {
                self.registry.insert(ip, endpoint(node, false));
                return Ok(());
            };
            prop_assert!(
                present.without_block,
                "{} offered by {}: {:?}",
                ip,
                node,
                present
            );
            prop_assert!(self.is_news(node, ip), "{node} knew of {present:?} at {ip}");
            self.hear(node);
            if self.pools[node].mark_foreign(ip) == Ok(ForeignMark::Contested) {
                self.pools[node].release(ip, self.now).unwrap();
            }
        }
        Ok(())
    }

    /// The node's next address: cooled down, else from a further block, else the coolest.
    fn offer(&mut self, node: usize) -> Option<IpAddr> {
        if let Some(ip) = self.pools[node].take(self.now) {
            return Some(ip);
        }
        if self.claim(node) {
            return self.pools[node].take(self.now).or_else(|| self.offer(node));
        }
        self.pools[node].take_coolest()
    }

    fn claim(&mut self, node: usize) -> bool {
        let claims = &self.claims;
        let candidate = self
            .layout
            .candidates(self.seed + node as u64, &self.reserved, |block| {
                claims.contains_key(&block)
            })
            .next();
        let Some(block) = candidate else {
            return false;
        };
        assert_eq!(self.claims.insert(block, node), None);
        self.pools[node].add_block(block, self.now).unwrap();
        self.tell_present(node, block);
        true
    }

    /// A node that takes a block up reads which endpoints are in it.
    fn tell_present(&mut self, node: usize, block: Block) {
        for (ip, endpoint) in &self.registry {
            if block.contains(*ip) && endpoint.node == node {
                self.pools[node].hold(*ip).unwrap();
            } else if block.contains(*ip) {
                self.pools[node].mark_foreign(*ip).unwrap();
            }
        }
    }

    fn attach_static(&mut self, node: usize, address: &Index) -> Result<(), TestCaseError> {
        let ip = self.address(address);
        let claims = &self.claims;
        let verdict = judge_static(ip, &self.layout, &self.reserved, |block| {
            let owner = *claims.get(&block)?;
            Some(if owner == node {
                BlockOwner::Own
            } else {
                BlockOwner::Other(owner)
            })
        });
        match verdict {
            StaticVerdict::InOwnBlock(_) => {
                let free_here = self.pools[node].take_specific(ip).is_ok();
                if free_here && self.registry.contains_key(&ip) {
                    prop_assert!(self.is_news(node, ip));
                    self.pools[node].release(ip, self.now).unwrap();
                    self.hear(node);
                } else if free_here {
                    self.registry.insert(ip, endpoint(node, false));
                }
            }
            StaticVerdict::Unowned => {
                self.registry
                    .entry(ip)
                    .or_insert_with(|| endpoint(node, true));
            }
            StaticVerdict::InForeignBlock {
                owner,
                reserve: false,
                ..
            } => {
                if let Entry::Vacant(entry) = self.registry.entry(ip) {
                    entry.insert(endpoint(node, true));
                    self.news[owner].push_back(News::Registered(ip));
                }
            }
            StaticVerdict::InForeignBlock { block, .. } => {
                prop_assert!(offline_reserve(block).unwrap().contains(&ip));
            }
            StaticVerdict::Reserved(reason) => {
                prop_assert_eq!(self.reserved.reason(ip), Some(reason));
            }
            StaticVerdict::OutsideSubnet => prop_assert!(false, "{ip} is in the subnet"),
        }
        Ok(())
    }

    /// An address near the start of the subnet, or in a claimed block if there is one.
    fn address(&self, choice: &Index) -> IpAddr {
        let blocks: Vec<Block> = self.claims.keys().copied().collect();
        let first = self.layout.block_of(self.layout.subnet().base()).unwrap();
        let block = blocks.get(choice.index(blocks.len() + 1));
        let addresses: Vec<IpAddr> = block.unwrap_or(&first).addresses().collect();
        addresses[choice.index(addresses.len() * 7) % addresses.len()]
    }

    fn detach(&mut self, choice: &Index) {
        let addresses: Vec<IpAddr> = self.registry.keys().copied().collect();
        if addresses.is_empty() {
            return;
        }
        let ip = addresses[choice.index(addresses.len())];
        let endpoint = self.registry.remove(&ip).unwrap();
        let owner = self
            .layout
            .block_of(ip)
            .and_then(|block| self.claims.get(&block).copied());
        match owner {
            Some(owner) if owner == endpoint.node => {
                self.pools[owner].release(ip, self.now).unwrap();
            }
            Some(owner) => self.news[owner].push_back(News::Removed(ip)),
            None => {}
        }
    }

    /// A block changes hands only when no endpoint is registered in it.
    fn give_back(&mut self, node: usize) {
        for block in self.pools[node].returnable(self.now, MIN_RETURN_AGE) {
            if !self.registry.keys().any(|ip| block.contains(*ip)) {
                self.pools[node].remove_block(block).unwrap();
                self.claims.remove(&block);
                self.news[node].retain(|news| !block.contains(news.ip()));
            }
        }
    }

    fn hear(&mut self, node: usize) {
        for news in std::mem::take(&mut self.news[node]) {
            match news {
                News::Registered(ip) => {
                    self.pools[node].mark_foreign(ip).unwrap();
                }
                News::Removed(ip) => self.pools[node].unmark_foreign(ip, self.now).unwrap(),
            }
        }
    }

    fn restart(&mut self, node: usize, journal: bool) {
        let before = self.pools[node].clone();
        let mut pool = NodePool::new(self.layout, self.reserved.clone(), DEFAULT_COOLDOWN);
        for block in before.blocks() {
            let added = if journal {
                pool.add_block(block, self.now)
            } else {
                pool.add_block_cooling(block, self.now)
            };
            added.unwrap();
        }
        self.pools[node] = pool;
        self.news[node].clear();
        for block in before.blocks() {
            self.tell_present(node, block);
        }
        for (ip, released) in before.cooling(self.now).filter(|_| journal) {
            // An address that somebody has meanwhile is no longer cooling.
            if !self.registry.contains_key(&ip) {
                self.pools[node].restore_cooling(ip, released).unwrap();
            }
        }
    }

    fn is_news(&self, node: usize, ip: IpAddr) -> bool {
        self.news[node].iter().any(|news| news.ip() == ip)
    }

    /// Each pool agrees with the claims, and holds what is registered for its node in its blocks.
    fn check(&self) -> Result<(), TestCaseError> {
        for (node, pool) in self.pools.iter().enumerate() {
            let claimed = self.claims.iter().filter(|(_, owner)| **owner == node);
            prop_assert!(pool.blocks().eq(claimed.map(|(block, _)| *block)));
            let registered = self
                .registry
                .iter()
                .filter(|(ip, endpoint)| {
                    endpoint.node == node && pool.state(**ip, self.now).is_some()
                })
                .count();
            prop_assert_eq!(pool.counts(self.now).held, registered, "node {}", node);
        }
        Ok(())
    }
}

impl News {
    fn ip(&self) -> IpAddr {
        match self {
            Self::Registered(ip) | Self::Removed(ip) => *ip,
        }
    }
}

fn endpoint(node: usize, without_block: bool) -> Endpoint {
    Endpoint {
        node,
        without_block,
    }
}
