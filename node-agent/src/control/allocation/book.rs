//! What this node knows of one network's addresses: its blocks, who holds what in them, and which blocks others have.
//!
//! Pure: time is an argument. Every held address has a holder and a stage, so that an address is freed exactly when its
//! endpoint is known to be gone. Must not decide whether an address is registered: the store's record does.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use weft_ipam::{Block, Counts, NodePool, pool::PoolError};
use weft_overlay::{
    claims::Stored,
    id::{EndpointId, NodeId},
    model::{BlockRecord, EndpointRecord},
    txn::Revision,
};

use super::shape::AddressShape;

/// How sure it is that a held address has its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Chosen; nothing was sent to the store.
    Reserved,
    /// Sent to the store; the outcome is not known.
    Unknown,
    /// Registered.
    Registered,
    /// Seen in the store, but not asked for by this process.
    Observed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) id: EndpointId,
    pub(super) stage: Stage,
}

/// A block of this node, as the store has it.
#[derive(Debug)]
pub(super) struct BlockFound {
    pub(super) block: Block,
    pub(super) record: Stored<BlockRecord>,
    /// The endpoints that are in it.
    pub(super) endpoints: Vec<(IpAddr, EndpointRecord)>,
    /// Claimed now; else its history is not known, and every free address counts as released now.
    pub(super) fresh: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Book {
    node: NodeId,
    shape: AddressShape,
    pool: NodePool,
    blocks: BTreeMap<Block, Stored<BlockRecord>>,
    holds: BTreeMap<IpAddr, Hold>,
    /// Addresses of our blocks that endpoints other than the holder occupy, themselves or through their IPv6 address.
    foreign: BTreeMap<IpAddr, BTreeSet<EndpointId>>,
    /// What was seen under the keys of endpoints, where it matters to our blocks.
    seen: BTreeMap<IpAddr, EndpointRecord>,
    claimed: BTreeSet<Block>,
    claimed_at: Option<Duration>,
    idle_since: Option<Duration>,
    /// While the blocks have yet to be read: what has happened meanwhile, which the reading may not show.
    unread: Option<Vec<Happened>>,
}

/// What happens to a book that is being read.
#[derive(Debug, Clone)]
enum Happened {
    Observed(IpAddr, Option<Box<EndpointRecord>>),
    Freed(IpAddr, EndpointId),
}

impl Book {
    /// A book whose blocks have yet to be read.
    pub(super) fn unread(node: NodeId, shape: AddressShape, cooldown: Duration) -> Self {
        let pool = NodePool::new(shape.layout, shape.reserved.clone(), cooldown);
        Self {
            node,
            shape,
            pool,
            blocks: BTreeMap::new(),
            holds: BTreeMap::new(),
            foreign: BTreeMap::new(),
            seen: BTreeMap::new(),
            claimed: BTreeSet::new(),
            claimed_at: None,
            idle_since: None,
            unread: Some(Vec::new()),
        }
    }

    pub(super) fn is_unread(&self) -> bool {
        self.unread.is_some()
    }

    /// Begins anew with what is not in the store yet.
    pub(super) fn start_over(&mut self, cooldown: Duration) {
        let mut empty = Self::unread(self.node, self.shape.clone(), cooldown);
        empty.adopt(self.pending());
        *self = empty;
    }

    /// Becomes the book that was read from the store, brought up to what has happened since the reading began.
    pub(super) fn complete(&mut self, read: Self, now: Duration) {
        let happened = self.unread.take().unwrap_or_default();
        // Also what was registered since: the reading may have begun before.
        let holds = std::mem::take(&mut self.holds);
        *self = Self { unread: None, ..read };
        self.adopt(holds);
        for change in happened {
            match change {
                Happened::Observed(ip, endpoint) => self.observe(ip, endpoint.as_deref(), now),
                Happened::Freed(ip, id) => self.free(ip, id, now),
            }
        }
    }

    fn remember(&mut self, change: Happened) {
        if let Some(happened) = &mut self.unread {
            happened.push(change);
        }
    }

    pub(super) fn shape(&self) -> &AddressShape {
        &self.shape
    }

    /// Takes up a block.
    pub(super) fn add_block(&mut self, found: BlockFound, now: Duration) -> Result<(), PoolError> {
        let BlockFound { block, record, endpoints, fresh } = found;
        if let Some(known) = self.blocks.get_mut(&block) {
            *known = record;
        } else {
            if fresh {
                self.pool.add_block(block, now)?
            } else {
                self.pool.add_block_cooling(block, now)?
            }
            self.blocks.insert(block, record);
        }
        self.claimed.remove(&block);
        let held: Vec<IpAddr> = self.holds.keys().copied().filter(|ip| block.contains(*ip)).collect();
        for ip in held {
            self.pool.hold(ip)?;
        }
        for (ip, endpoint) in &endpoints {
            self.observe(*ip, Some(endpoint), now);
        }
        Ok(())
    }

    pub(super) fn take(&mut self, id: EndpointId, now: Duration) -> Option<IpAddr> {
        let ip = self.pool.take(now)?;
        Some(self.chosen(ip, id))
    }

    pub(super) fn take_coolest(&mut self, id: EndpointId) -> Option<IpAddr> {
        let ip = self.pool.take_coolest()?;
        Some(self.chosen(ip, id))
    }

    /// An address that a user chose: from its block, if it is one of ours by now; else the store alone decides about it.
    pub(super) fn take_asked(&mut self, ip: IpAddr, id: EndpointId) -> Option<IpAddr> {
        if self.own_block(ip).is_some() {
            self.pool.take_specific(ip).ok()?;
        } else if self.holds.contains_key(&ip) {
            return None;
        }
        Some(self.chosen(ip, id))
    }

    /// Gives a held address to another id of the same endpoint; false when it is not held under the first.
    pub(super) fn rename(&mut self, ip: IpAddr, from: EndpointId, to: EndpointId) -> bool {
        let hold = self.holds.get_mut(&ip).filter(|hold| hold.id == from);
        hold.map(|hold| hold.id = to).is_some()
    }

    fn chosen(&mut self, ip: IpAddr, id: EndpointId) -> IpAddr {
        self.holds.insert(ip, Hold { id, stage: Stage::Reserved });
        self.idle_since = None;
        ip
    }

    /// The block of ours that an address is in, with the revision that endpoints in it must name.
    pub(super) fn own_block(&self, ip: IpAddr) -> Option<(Block, Revision)> {
        let block = self.shape.layout.block_of(ip)?;
        self.blocks.get(&block).map(|record| (block, record.revision))
    }

    pub(super) fn has_free(&self, now: Duration) -> bool {
        self.pool.counts(now).free > 0
    }

    pub(super) fn needs_block(&self, now: Duration) -> bool {
        self.pool.needs_block(now)
    }

    pub(super) fn counts(&self, now: Duration) -> Counts {
        self.pool.counts(now)
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = (Block, &Stored<BlockRecord>)> {
        self.blocks.iter().map(|(block, record)| (*block, record))
    }

    pub(super) fn holds(&self) -> &BTreeMap<IpAddr, Hold> {
        &self.holds
    }

    /// Notes how far the registration of a reserved address has come; of another endpoint's, nothing.
    pub(super) fn set_stage(&mut self, ip: IpAddr, id: EndpointId, stage: Stage) {
        if let Some(hold) = self.holds.get_mut(&ip)
            && hold.id == id
        {
            hold.stage = stage;
        }
    }

    pub(super) fn stage(&self, ip: IpAddr, id: EndpointId) -> Option<Stage> {
        self.holds.get(&ip).filter(|hold| hold.id == id).map(|hold| hold.stage)
    }

    /// Frees the address of an endpoint that is known not to exist; it cools down.
    pub(super) fn free(&mut self, ip: IpAddr, id: EndpointId, now: Duration) {
        self.remember(Happened::Freed(ip, id));
        if self.holds.get(&ip).is_some_and(|hold| hold.id == id) {
            self.holds.remove(&ip);
            // Outside our blocks there is nothing to free.
            self.pool.release(ip, now).ok();
        }
    }

    /// Notes what is stored under the key of an address; `None`: nothing.
    pub(super) fn observe(&mut self, ip: IpAddr, endpoint: Option<&EndpointRecord>, now: Duration) {
        self.remember(Happened::Observed(ip, endpoint.cloned().map(Box::new)));
        if self.seen.get(&ip) == endpoint {
            return;
        }
        if let Some(gone) = self.seen.remove(&ip) {
            self.forget(ip, &gone, now);
        }
        if let Some(endpoint) = endpoint {
            self.note(ip, endpoint);
        }
    }

    /// Notes everything that is stored in the network; what is not listed is not there.
    pub(super) fn observe_all(&mut self, endpoints: &BTreeMap<IpAddr, EndpointRecord>, now: Duration) {
        let gone: Vec<IpAddr> = self.seen.keys().copied().filter(|ip| !endpoints.contains_key(ip)).collect();
        for ip in gone {
            self.observe(ip, None, now);
        }
        for (ip, endpoint) in endpoints {
            self.observe(*ip, Some(endpoint), now);
        }
    }

    /// Marks an address that turned out to be somebody else's, without knowing more of them.
    pub(super) fn mark_taken(&mut self, ip: IpAddr, by: EndpointId) {
        if self.own_block(ip).is_some() && self.pool.mark_foreign(ip).is_ok() {
            self.foreign.entry(ip).or_default().insert(by);
        }
    }

    fn note(&mut self, ip: IpAddr, endpoint: &EndpointRecord) {
        let counterpart = endpoint.ipv6.and_then(|v6| self.shape.counterpart(v6)).map(IpAddr::V4);
        let beside = counterpart.filter(|other| *other != ip && self.own_block(*other).is_some());
        let inside = self.own_block(ip).is_some();
        if !inside && beside.is_none() {
            return;
        }
        if let Some(other) = beside {
            self.mark_taken(other, endpoint.id);
        }
        if inside && endpoint.node != self.node {
            self.mark_taken(ip, endpoint.id);
        } else if inside && !self.holds.contains_key(&ip) && self.pool.hold(ip).is_ok() {
            self.holds.insert(ip, Hold { id: endpoint.id, stage: Stage::Observed });
        }
        self.seen.insert(ip, endpoint.clone());
    }

    fn forget(&mut self, ip: IpAddr, endpoint: &EndpointRecord, now: Duration) {
        let counterpart = endpoint.ipv6.and_then(|v6| self.shape.counterpart(v6)).map(IpAddr::V4);
        for occupied in [Some(ip), counterpart].into_iter().flatten() {
            if let Some(by) = self.foreign.get_mut(&occupied) {
                by.remove(&endpoint.id);
                if by.is_empty() {
                    self.foreign.remove(&occupied);
                    self.pool.unmark_foreign(occupied, now).ok();
                }
            }
        }
        if matches!(self.stage(ip, endpoint.id), Some(Stage::Observed | Stage::Registered)) {
            self.free(ip, endpoint.id, now);
        }
    }

    /// Notes which blocks others have, as listed at `now`.
    pub(super) fn set_claimed(&mut self, claimed: BTreeSet<Block>, now: Duration) {
        self.claimed = claimed;
        self.claimed_at = Some(now);
    }

    /// Has the list of others' blocks read again.
    pub(super) fn expire_claimed(&mut self) {
        self.claimed_at = None;
    }

    pub(super) fn note_claimed(&mut self, block: Block) {
        self.claimed.insert(block);
    }

    /// Whether the list of others' blocks is younger than `age`.
    pub(super) fn claimed_is_fresh(&self, now: Duration, age: Duration) -> bool {
        self.claimed_at.is_some_and(|at| now.saturating_sub(at) < age)
    }

    /// The block to claim next.
    pub(super) fn candidate(&self, seed: u64) -> Option<Block> {
        let taken = |block: Block| self.claimed.contains(&block) || self.blocks.contains_key(&block);
        self.shape.layout.candidates(seed, &self.shape.reserved, taken).next()
    }

    /// Blocks that may go back: empty and old enough, and not needed for the next attaches. With `all`, every empty one.
    pub(super) fn surplus(&mut self, now: Duration, min_age: Duration, all: bool) -> Vec<(Block, Stored<BlockRecord>)> {
        if !self.holds.is_empty() {
            self.idle_since = None;
        } else if self.idle_since.is_none() {
            self.idle_since = Some(now);
        }
        let mut rest = self.pool.clone();
        let mut surplus = Vec::new();
        for block in self.candidates_for_return(now, min_age, all) {
            if rest.remove_block(block).is_err() {
                continue;
            }
            if !all && rest.needs_block(now) {
                break;
            }
            surplus.extend(self.blocks.get(&block).map(|record| (block, record.clone())));
        }
        surplus
    }

    fn candidates_for_return(&self, now: Duration, min_age: Duration, all: bool) -> Vec<Block> {
        if !all {
            return self.pool.returnable(now, min_age);
        }
        let used = |block: &Block| self.holds.keys().chain(self.foreign.keys()).any(|ip| block.contains(*ip));
        self.blocks.keys().copied().filter(|block| !used(block)).collect()
    }

    /// Since when no endpoint of this node is in the network.
    pub(super) fn idle_since(&self) -> Option<Duration> {
        self.idle_since
    }

    /// Stops handing out addresses of a block, before it is given back.
    pub(super) fn withdraw(&mut self, block: Block) -> bool {
        let withdrawn = self.pool.remove_block(block).is_ok();
        if withdrawn {
            self.blocks.remove(&block);
            self.foreign.retain(|ip, _| !block.contains(*ip));
            self.seen.retain(|ip, _| !block.contains(*ip));
        }
        withdrawn
    }

    /// The holds that a book which is read anew must know, because the store may not show them.
    fn pending(&self) -> BTreeMap<IpAddr, Hold> {
        let pending = |hold: &Hold| matches!(hold.stage, Stage::Reserved | Stage::Unknown);
        self.holds.iter().filter(|(_, hold)| pending(hold)).map(|(ip, hold)| (*ip, *hold)).collect()
    }

    /// Takes over what [`Self::pending`] gave.
    fn adopt(&mut self, pending: BTreeMap<IpAddr, Hold>) {
        for (ip, hold) in pending {
            // Outside our blocks there is nothing to hold.
            self.pool.hold(ip).ok();
            self.holds.insert(ip, hold);
        }
    }
}
