//! One block of a pool: the state of each of its addresses, and how many are in use.

use std::time::Duration;

use crate::reserved::Reserved;

/// State of one address. Whether a free address is cooling follows from its turn and the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Reserved(Reserved),
    Free(Turn),
    Held,
    Foreign,
    Contested,
}

/// The place of a free address in the line: never used first, then by release, then by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    pub(super) released: Option<Duration>,
    pub(super) sequence: u64,
}

impl Turn {
    /// When the address may be handed out.
    pub(super) fn ready(&self, cooldown: Duration) -> Duration {
        self.released
            .map_or(Duration::ZERO, |released| released.saturating_add(cooldown))
    }

    pub(super) fn is_cooling(&self, cooldown: Duration, now: Duration) -> bool {
        now < self.ready(cooldown)
    }
}

#[derive(Debug, Clone)]
pub(super) struct OwnedBlock {
    added: Duration,
    slots: Vec<Slot>,
    capacity: usize,
    held: usize,
    foreign: usize,
}

impl OwnedBlock {
    /// A block whose addresses are all reserved or free.
    pub(super) fn new(added: Duration, slots: Vec<Slot>) -> Self {
        let capacity = slots
            .iter()
            .filter(|slot| matches!(slot, Slot::Free(_)))
            .count();
        Self {
            added,
            slots,
            capacity,
            held: 0,
            foreign: 0,
        }
    }

    /// When the node took the block up.
    pub(super) fn added(&self) -> Duration {
        self.added
    }

    /// Addresses that an endpoint may have.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Addresses that endpoints of this node have, contested ones included.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Addresses that only an endpoint of another node has.
    pub(super) fn foreign(&self) -> usize {
        self.foreign
    }

    /// Whether no endpoint of any node is in the block.
    pub(super) fn is_idle(&self) -> bool {
        self.held == 0 && self.foreign == 0
    }

    /// The turns of the free addresses.
    pub(super) fn turns(&self) -> impl Iterator<Item = Turn> + '_ {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Free(turn) => Some(*turn),
            Slot::Reserved(_) | Slot::Held | Slot::Foreign | Slot::Contested => None,
        })
    }

    pub(super) fn slot(&self, offset: usize) -> Option<Slot> {
        self.slots.get(offset).copied()
    }

    /// Changes a state and returns the previous one.
    pub(super) fn replace(&mut self, offset: usize, next: Slot) -> Option<Slot> {
        let slot = self.slots.get_mut(offset)?;
        let previous = std::mem::replace(slot, next);
        if let Some(count) = self.count(previous) {
            *count -= 1;
        }
        if let Some(count) = self.count(next) {
            *count += 1;
        }
        Some(previous)
    }

    fn count(&mut self, slot: Slot) -> Option<&mut usize> {
        match slot {
            Slot::Held | Slot::Contested => Some(&mut self.held),
            Slot::Foreign => Some(&mut self.foreign),
            Slot::Reserved(_) | Slot::Free(_) => None,
        }
    }
}
