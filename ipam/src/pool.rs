//! What one node may hand out in one network.
//!
//! Owns the state of every address in the node's blocks and the order in which free ones are handed
//! out: never used first, then the one released longest ago. Must not decide whether an address is
//! registered (the endpoint record does that) nor whether a block is owned (the block record does):
//! the caller claims first and then tells the pool, and a refused operation changes nothing.
//!
//! An address that was released cools down before it is handed out again, because peers may still
//! send to the old endpoint. Cooldown is a preference, not a wall: see [`NodePool::take_coolest`].

mod error;
mod owned;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::block::{Block, BlockLayout};
use crate::reserved::{Reserved, ReservedAddresses};
use owned::{OwnedBlock, Slot, Turn};

pub use error::PoolError;

/// How long a released address rests unless the cluster says otherwise. Longer than the 30 s of the
/// AWS VPC CNI, which was the shortest found in use.
pub const DEFAULT_COOLDOWN: Duration = Duration::from_secs(60);

/// How old an empty block must be before it may be given back, so that two nodes do not pass one
/// block to and fro.
pub const MIN_RETURN_AGE: Duration = Duration::from_secs(60);

/// Free addresses below which a pool wants a further block, whatever its size.
const LOW_WATER: usize = 8;

/// The addresses that one node may hand out in one network.
///
/// Taking, holding and releasing cost O(log n) in the number of addresses; an address costs about
/// 100 bytes.
#[derive(Debug, Clone)]
pub struct NodePool {
    layout: BlockLayout,
    reserved: ReservedAddresses,
    cooldown: Duration,
    blocks: BTreeMap<Block, OwnedBlock>,
    /// Free addresses, cooling ones included, in the order in which they are handed out.
    queue: BTreeMap<Turn, IpAddr>,
    next_sequence: u64,
    capacity: usize,
}

/// State of an address in one of the node's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressState {
    /// No endpoint may have it.
    Reserved(Reserved),
    /// May be handed out.
    Free,
    /// Released; may be handed out from that time on.
    Cooling {
        /// On the caller's clock.
        until: Duration,
    },
    /// An endpoint of this node has it, or is about to.
    Held,
    /// An endpoint of another node has it, because its user chose it.
    Foreign,
    /// Taken here, and then an endpoint of another node was seen to have it: registering it here
    /// will fail. Becomes foreign when released.
    Contested,
}

/// How many addresses are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Can be handed out at once.
    pub free: usize,
    /// Have an endpoint of this node; contested ones included.
    pub held: usize,
    /// Were released too short a time ago.
    pub cooling: usize,
    /// Have an endpoint of another node.
    pub foreign: usize,
}

/// What became of an address at which an endpoint of another node was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignMark {
    /// It will not be handed out here.
    Foreign,
    /// It is held here too; registering it here will fail.
    Contested,
}

impl NodePool {
    /// An empty pool. `reserved` must be of the layout's subnet; `cooldown` is how long a released
    /// address rests.
    pub fn new(layout: BlockLayout, reserved: ReservedAddresses, cooldown: Duration) -> Self {
        Self {
            layout,
            reserved,
            cooldown,
            blocks: BTreeMap::new(),
            queue: BTreeMap::new(),
            next_sequence: 0,
            capacity: 0,
        }
    }

    /// Takes up a block that this node has claimed; its addresses are free and never used.
    ///
    /// The caller then marks the endpoints that are in it already, of this node with
    /// [`Self::hold`], of others with [`Self::mark_foreign`].
    pub fn add_block(&mut self, block: Block, now: Duration) -> Result<(), PoolError> {
        self.insert_block(block, now, None)
    }

    /// Takes up a block of which it is not known when its addresses were released, because the
    /// journal is lost: every free address counts as released now.
    pub fn add_block_cooling(&mut self, block: Block, now: Duration) -> Result<(), PoolError> {
        self.insert_block(block, now, Some(now))
    }

    /// Gives up a block in which this node holds no address.
    pub fn remove_block(&mut self, block: Block) -> Result<(), PoolError> {
        let owned = self
            .blocks
            .get(&block)
            .ok_or(PoolError::BlockNotOwned { block })?;
        if owned.held() > 0 {
            let held = owned.held();
            return Err(PoolError::BlockInUse { block, held });
        }
        for turn in owned.turns() {
            self.queue.remove(&turn);
        }
        self.capacity -= owned.capacity();
        self.blocks.remove(&block);
        Ok(())
    }

    /// The free address whose turn it is, now held. None if all free ones are still cooling: the
    /// caller then claims another block.
    pub fn take(&mut self, now: Duration) -> Option<IpAddr> {
        let (turn, ip) = self.queue.first_key_value()?;
        if turn.is_cooling(self.cooldown, now) {
            return None;
        }
        self.take_first(*ip)
    }

    /// The free address whose turn it is, now held, even if it is still cooling: the one released
    /// longest ago. For when no node has anything better.
    pub fn take_coolest(&mut self) -> Option<IpAddr> {
        let ip = *self.queue.first_key_value()?.1;
        self.take_first(ip)
    }

    /// Holds the address that a user chose. A cooling address may be chosen.
    pub fn take_specific(&mut self, ip: IpAddr) -> Result<(), PoolError> {
        self.require_free(ip)?;
        self.replace(ip, Slot::Held)
    }

    /// Holds the address of an endpoint that exists on this node already; may be repeated.
    pub fn hold(&mut self, ip: IpAddr) -> Result<(), PoolError> {
        match self.slot(ip)? {
            Slot::Held | Slot::Contested => Ok(()),
            Slot::Free(_) | Slot::Foreign | Slot::Reserved(_) => self.take_specific(ip),
        }
    }

    /// Frees an address that this node held; it cools down from `now` on.
    pub fn release(&mut self, ip: IpAddr, now: Duration) -> Result<(), PoolError> {
        match self.slot(ip)? {
            Slot::Held => self.free(ip, now),
            Slot::Contested => self.replace(ip, Slot::Foreign),
            Slot::Free(_) | Slot::Foreign | Slot::Reserved(_) => Err(PoolError::NotHeld { ip }),
        }
    }

    /// Notes that an endpoint of another node has the address; may be repeated.
    pub fn mark_foreign(&mut self, ip: IpAddr) -> Result<ForeignMark, PoolError> {
        match self.slot(ip)? {
            Slot::Free(_) => {
                self.replace(ip, Slot::Foreign)?;
                Ok(ForeignMark::Foreign)
            }
            Slot::Foreign => Ok(ForeignMark::Foreign),
            Slot::Held => {
                self.replace(ip, Slot::Contested)?;
                Ok(ForeignMark::Contested)
            }
            Slot::Contested => Ok(ForeignMark::Contested),
            Slot::Reserved(reason) => Err(PoolError::Reserved { ip, reason }),
        }
    }

    /// Notes that the endpoint of another node is gone; a free address cools down from `now` on.
    pub fn unmark_foreign(&mut self, ip: IpAddr, now: Duration) -> Result<(), PoolError> {
        match self.slot(ip)? {
            Slot::Foreign => self.free(ip, now),
            Slot::Contested => self.replace(ip, Slot::Held),
            Slot::Free(_) | Slot::Held | Slot::Reserved(_) => Err(PoolError::NotForeign { ip }),
        }
    }

    /// Puts back what a journal knows: the free address `ip` was released at `released`.
    pub fn restore_cooling(&mut self, ip: IpAddr, released: Duration) -> Result<(), PoolError> {
        self.require_free(ip)?;
        self.free(ip, released)
    }

    /// Whether it is time to claim another block: fewer than 8 addresses, or fewer than a quarter
    /// of them, are free; cooling ones are not. Never when blocks have one address, where claiming
    /// ahead of need would starve others.
    pub fn needs_block(&self, now: Duration) -> bool {
        let wanted = LOW_WATER.max(self.capacity.div_ceil(4));
        let enough = self
            .queue
            .keys()
            .nth(wanted - 1)
            .is_some_and(|turn| !turn.is_cooling(self.cooldown, now));
        self.layout.block_size() > 1 && !enough
    }

    /// The blocks that may be given back: owned for `min_age` or longer, and without an endpoint of
    /// any node. One block always stays: if all could go, the one owned longest is left out.
    pub fn returnable(&self, now: Duration, min_age: Duration) -> Vec<Block> {
        let mut idle: Vec<Block> = self
            .blocks
            .iter()
            .filter(|(_, owned)| owned.is_idle() && now.saturating_sub(owned.added()) >= min_age)
            .map(|(block, _)| *block)
            .collect();
        if idle.len() == self.blocks.len() {
            let oldest = self.blocks.iter().min_by_key(|(_, owned)| owned.added());
            idle.retain(|block| oldest.is_none_or(|(oldest, _)| oldest != block));
        }
        idle
    }

    /// How many addresses are in which state; reserved ones are in none.
    pub fn counts(&self, now: Duration) -> Counts {
        let cooling = self.cooling(now).count();
        Counts {
            free: self.queue.len() - cooling,
            held: self.blocks.values().map(OwnedBlock::held).sum(),
            cooling,
            foreign: self.blocks.values().map(OwnedBlock::foreign).sum(),
        }
    }

    /// Number of addresses in the pool's blocks that an endpoint may have.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The blocks, in order.
    pub fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        self.blocks.keys().copied()
    }

    /// The addresses that are still cooling and when each was released, latest first: what a
    /// journal keeps.
    pub fn cooling(&self, now: Duration) -> impl Iterator<Item = (IpAddr, Duration)> + '_ {
        self.queue
            .iter()
            .rev()
            .take_while(move |(turn, _)| turn.is_cooling(self.cooldown, now))
            .filter_map(|(turn, ip)| turn.released.map(|released| (*ip, released)))
    }

    /// The state of an address; none if it is in no block of the pool.
    pub fn state(&self, ip: IpAddr, now: Duration) -> Option<AddressState> {
        let state = match self.slot(ip).ok()? {
            Slot::Reserved(reason) => AddressState::Reserved(reason),
            Slot::Held => AddressState::Held,
            Slot::Foreign => AddressState::Foreign,
            Slot::Contested => AddressState::Contested,
            Slot::Free(turn) if turn.is_cooling(self.cooldown, now) => AddressState::Cooling {
                until: turn.ready(self.cooldown),
            },
            Slot::Free(_) => AddressState::Free,
        };
        Some(state)
    }

    fn insert_block(
        &mut self,
        block: Block,
        now: Duration,
        released: Option<Duration>,
    ) -> Result<(), PoolError> {
        self.layout.check_block(block)?;
        if self.blocks.contains_key(&block) {
            return Err(PoolError::BlockOwned { block });
        }
        let mut slots = Vec::new();
        for ip in block.addresses() {
            slots.push(match self.reserved.reason(ip) {
                Some(reason) => Slot::Reserved(reason),
                None => self.enqueue(ip, released),
            });
        }
        let owned = OwnedBlock::new(now, slots);
        self.capacity += owned.capacity();
        self.blocks.insert(block, owned);
        Ok(())
    }

    fn slot(&self, ip: IpAddr) -> Result<Slot, PoolError> {
        self.layout
            .block_of(ip)
            .and_then(|block| self.blocks.get(&block)?.slot(block.offset(ip)?))
            .ok_or(PoolError::NotOwned { ip })
    }

    fn require_free(&self, ip: IpAddr) -> Result<(), PoolError> {
        match self.slot(ip)? {
            Slot::Free(_) => Ok(()),
            Slot::Held | Slot::Contested => Err(PoolError::Held { ip }),
            Slot::Foreign => Err(PoolError::Foreign { ip }),
            Slot::Reserved(reason) => Err(PoolError::Reserved { ip, reason }),
        }
    }

    fn take_first(&mut self, ip: IpAddr) -> Option<IpAddr> {
        self.replace(ip, Slot::Held).ok().map(|()| ip)
    }

    fn free(&mut self, ip: IpAddr, released: Duration) -> Result<(), PoolError> {
        let slot = self.enqueue(ip, Some(released));
        self.replace(ip, slot)
    }

    /// Puts the address at the end of the line for its release time.
    fn enqueue(&mut self, ip: IpAddr, released: Option<Duration>) -> Slot {
        let turn = Turn {
            released,
            sequence: self.next_sequence,
        };
        self.next_sequence += 1;
        self.queue.insert(turn, ip);
        Slot::Free(turn)
    }

    /// Changes the state of an owned address; a free one leaves the line.
    fn replace(&mut self, ip: IpAddr, next: Slot) -> Result<(), PoolError> {
        let previous = self
            .layout
            .block_of(ip)
            .and_then(|block| {
                self.blocks
                    .get_mut(&block)?
                    .replace(block.offset(ip)?, next)
            })
            .ok_or(PoolError::NotOwned { ip })?;
        if let Slot::Free(turn) = previous {
            self.queue.remove(&turn);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
