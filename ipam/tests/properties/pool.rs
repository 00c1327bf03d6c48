//! One node's pool against a model that keeps everything in lists and searches them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use weft_ipam::pool::{AddressState, ForeignMark, PoolError};
use weft_ipam::{Block, BlockLayout, Counts, NodePool, ReservedAddresses, Subnet};

const COOLDOWN: Duration = Duration::from_secs(60);
const MIN_AGE: Duration = Duration::from_secs(60);

/// One call on the pool. Addresses and blocks are numbered from the start of the subnet; numbers
/// beyond its end stand for addresses and blocks of another network.
#[derive(Debug, Clone)]
enum Operation {
    Wait(u64),
    AddBlock { number: u8, cooling: bool },
    RemoveBlock(u8),
    Take,
    TakeCoolest,
    TakeSpecific(u8),
    Hold(u8),
    Release(u8),
    ReleaseAnyHeld(u8),
    MarkForeign(u8),
    UnmarkForeign(u8),
    RestoreCooling { number: u8, ago: u64 },
}

fn operation() -> impl Strategy<Value = Operation> {
    let address = 0..68_u8;
    let block = 0..9_u8;
    prop_oneof![
        4 => (0..40_u64).prop_map(Operation::Wait),
        4 => (block.clone(), any::<bool>())
            .prop_map(|(number, cooling)| Operation::AddBlock { number, cooling }),
        1 => block.prop_map(Operation::RemoveBlock),
        12 => Just(Operation::Take),
        1 => Just(Operation::TakeCoolest),
        2 => address.clone().prop_map(Operation::TakeSpecific),
        2 => address.clone().prop_map(Operation::Hold),
        2 => address.clone().prop_map(Operation::Release),
        8 => any::<u8>().prop_map(Operation::ReleaseAnyHeld),
        3 => address.clone().prop_map(Operation::MarkForeign),
        3 => address.clone().prop_map(Operation::UnmarkForeign),
        1 => (address, 0..90_u64)
            .prop_map(|(number, ago)| Operation::RestoreCooling { number, ago }),
    ]
}

proptest! {
    #[test]
    fn a_pool_behaves_as_its_model(
        small_blocks in any::<bool>(),
        operations in prop::collection::vec(operation(), 1..250),
    ) {
        let mut world = World::new(if small_blocks { 32 } else { 29 });
        for operation in operations {
            world.run(&operation)?;
            world.compare()?;
        }
    }

    #[test]
    fn released_addresses_return_in_order_and_not_before_their_time(
        waits in prop::collection::vec((0..30_u64, any::<prop::sample::Index>()), 1..200),
    ) {
        let mut world = World::new(29);
        for number in 0..3 {
            world.run(&Operation::AddBlock { number, cooling: false })?;
        }
        let mut held: Vec<IpAddr> = Vec::new();
        let mut line: Vec<(IpAddr, Duration)> = Vec::new();
        for (wait, choice) in waits {
            world.now += Duration::from_secs(wait);
            if let Some(ip) = world.pool.take(world.now) {
                prop_assert!(world.reserved.reason(ip).is_none());
                prop_assert!(!held.contains(&ip), "{ip} taken twice");
                if let Some(place) = line.iter().position(|(other, _)| *other == ip) {
                    prop_assert_eq!(place, 0, "{} overtook others", ip);
                    let (_, released) = line.remove(0);
                    prop_assert!(world.now >= released + COOLDOWN, "{ip} came too early");
                }
                held.push(ip);
            } else if let Some((ip, released)) = line.first() {
                prop_assert!(world.now < *released + COOLDOWN, "{ip} was withheld");
            }
            if held.len() > choice.index(20) {
                let ip = held.swap_remove(choice.index(held.len()));
                world.pool.release(ip, world.now).unwrap();
                line.push((ip, world.now));
            }
        }
    }
}

/// A pool, its model and the time.
struct World {
    subnet: Subnet,
    layout: BlockLayout,
    reserved: ReservedAddresses,
    pool: NodePool,
    model: Model,
    now: Duration,
}

/// What the pool should know, in the plainest form.
#[derive(Default)]
struct Model {
    blocks: BTreeMap<Block, Duration>,
    /// Free addresses in the order in which they became free.
    free: Vec<(IpAddr, Option<Duration>)>,
    held: Vec<IpAddr>,
    foreign: Vec<IpAddr>,
}

impl World {
    fn new(prefix_len: u8) -> Self {
        let subnet: Subnet = "10.0.0.0/26".parse().unwrap();
        let layout = BlockLayout::new(subnet, None, prefix_len).unwrap();
        let auxiliary = [address(9), address(20)];
        let reserved =
            ReservedAddresses::new(subnet, &[subnet.default_gateway()], &auxiliary).unwrap();
        Self {
            subnet,
            layout,
            pool: NodePool::new(layout, reserved.clone(), COOLDOWN),
            reserved,
            model: Model::default(),
            now: Duration::ZERO,
        }
    }

    fn run(&mut self, operation: &Operation) -> Result<(), TestCaseError> {
        match *operation {
            Operation::Wait(seconds) => self.now += Duration::from_secs(seconds),
            Operation::AddBlock { number, cooling } => self.add_block(number, cooling)?,
            Operation::RemoveBlock(number) => self.remove_block(number)?,
            Operation::Take => {
                let expected = self.model.take(Some(self.now));
                prop_assert_eq!(self.pool.take(self.now), expected);
            }
            Operation::TakeCoolest => {
                let expected = self.model.take(None);
                prop_assert_eq!(self.pool.take_coolest(), expected);
            }
            Operation::TakeSpecific(number) => {
                let ip = address(number);
                let expected = self.model.remove_free(ip);
                if expected {
                    self.model.held.push(ip);
                }
                prop_assert_eq!(self.pool.take_specific(ip).is_ok(), expected);
            }
            Operation::Hold(number) => {
                let ip = address(number);
                if self.model.remove_free(ip) {
                    self.model.held.push(ip);
                }
                let expected = self.model.held.contains(&ip);
                prop_assert_eq!(self.pool.hold(ip).is_ok(), expected);
            }
            Operation::Release(number) => self.release(address(number))?,
            Operation::ReleaseAnyHeld(choice) => {
                if !self.model.held.is_empty() {
                    let ip = self.model.held[usize::from(choice) % self.model.held.len()];
                    self.release(ip)?;
                }
            }
            Operation::MarkForeign(number) => self.mark_foreign(address(number))?,
            Operation::UnmarkForeign(number) => self.unmark_foreign(address(number))?,
            Operation::RestoreCooling { number, ago } => {
                let ip = address(number);
                let released = self.now.saturating_sub(Duration::from_secs(ago));
                let expected = self.model.remove_free(ip);
                if expected {
                    self.model.free.push((ip, Some(released)));
                }
                prop_assert_eq!(self.pool.restore_cooling(ip, released).is_ok(), expected);
            }
        }
        Ok(())
    }

    fn add_block(&mut self, number: u8, cooling: bool) -> Result<(), TestCaseError> {
        let block = self.block(number);
        let expected =
            self.subnet.contains(block.base()) && !self.model.blocks.contains_key(&block);
        if expected {
            let released = cooling.then_some(self.now);
            self.model.blocks.insert(block, self.now);
            let usable = block
                .addresses()
                .filter(|ip| self.reserved.reason(*ip).is_none());
            self.model.free.extend(usable.map(|ip| (ip, released)));
        }
        let result = if cooling {
            self.pool.add_block_cooling(block, self.now)
        } else {
            self.pool.add_block(block, self.now)
        };
        prop_assert_eq!(result.is_ok(), expected);
        Ok(())
    }

    fn remove_block(&mut self, number: u8) -> Result<(), TestCaseError> {
        let block = self.block(number);
        let expected = self.model.blocks.contains_key(&block)
            && !self.model.held.iter().any(|ip| block.contains(*ip));
        if expected {
            self.model.blocks.remove(&block);
            self.model.free.retain(|(ip, _)| !block.contains(*ip));
            self.model.foreign.retain(|ip| !block.contains(*ip));
        }
        prop_assert_eq!(self.pool.remove_block(block).is_ok(), expected);
        Ok(())
    }

    fn release(&mut self, ip: IpAddr) -> Result<(), TestCaseError> {
        let expected = self.model.held.contains(&ip);
        if expected {
            self.model.held.retain(|held| *held != ip);
            if !self.model.foreign.contains(&ip) {
                self.model.free.push((ip, Some(self.now)));
            }
        }
        prop_assert_eq!(self.pool.release(ip, self.now).is_ok(), expected);
        Ok(())
    }

    fn mark_foreign(&mut self, ip: IpAddr) -> Result<(), TestCaseError> {
        let result = self.pool.mark_foreign(ip);
        if self.model.held.contains(&ip) {
            prop_assert_eq!(result, Ok(ForeignMark::Contested));
        } else if self.model.remove_free(ip) || self.model.foreign.contains(&ip) {
            prop_assert_eq!(result, Ok(ForeignMark::Foreign));
        } else {
            prop_assert!(result.is_err());
            return Ok(());
        }
        if !self.model.foreign.contains(&ip) {
            self.model.foreign.push(ip);
        }
        Ok(())
    }

    fn unmark_foreign(&mut self, ip: IpAddr) -> Result<(), TestCaseError> {
        let expected = self.model.foreign.contains(&ip);
        if expected {
            self.model.foreign.retain(|foreign| *foreign != ip);
            if !self.model.held.contains(&ip) {
                self.model.free.push((ip, Some(self.now)));
            }
        }
        let result = self.pool.unmark_foreign(ip, self.now);
        prop_assert_eq!(result.is_ok(), expected);
        Ok(())
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        let counts = self.model.counts(self.now);
        prop_assert_eq!(self.pool.counts(self.now), counts);
        let capacity = counts.free + counts.cooling + counts.held + counts.foreign;
        prop_assert_eq!(self.pool.capacity(), capacity);
        let scarce = counts.free < 8 || counts.free * 4 < capacity;
        let wants = self.layout.block_size() > 1 && scarce;
        prop_assert_eq!(self.pool.needs_block(self.now), wants);
        prop_assert!(self.pool.blocks().eq(self.model.blocks.keys().copied()));
        self.compare_returnable()?;
        for number in 0..68 {
            let ip = address(number);
            let expected = self.model.state(ip, self.now, &self.reserved);
            prop_assert_eq!(self.pool.state(ip, self.now), expected, "{}", ip);
            if expected.is_none() {
                let refused = self.pool.clone().release(ip, self.now);
                prop_assert_eq!(refused, Err(PoolError::NotOwned { ip }));
            }
        }
        Ok(())
    }

    fn compare_returnable(&self) -> Result<(), TestCaseError> {
        let returnable = self.pool.returnable(self.now, MIN_AGE);
        let idle: Vec<Block> = self
            .model
            .blocks
            .iter()
            .filter(|(_, added)| self.now - **added >= MIN_AGE)
            .map(|(block, _)| *block)
            .filter(|block| {
                let mut used = self.model.held.iter().chain(&self.model.foreign);
                !used.any(|ip| block.contains(*ip))
            })
            .collect();
        prop_assert!(returnable.iter().all(|block| idle.contains(block)));
        let all_but_the_last = idle.len().min(self.model.blocks.len().saturating_sub(1));
        prop_assert_eq!(returnable.len(), all_but_the_last);
        Ok(())
    }

    fn block(&self, number: u8) -> Block {
        let prefix_len = self.layout.block_prefix_len();
        let size = u8::try_from(self.layout.block_size()).unwrap();
        Block::new(address(number * size), prefix_len).unwrap()
    }
}

impl Model {
    /// The free address that was released first, if it has cooled down by `now`; in any case
    /// without a `now`.
    fn take(&mut self, now: Option<Duration>) -> Option<IpAddr> {
        let (ip, released) = *self.free.iter().min_by_key(|(_, released)| *released)?;
        if let (Some(now), Some(released)) = (now, released)
            && now < released + COOLDOWN
        {
            return None;
        }
        self.remove_free(ip);
        self.held.push(ip);
        Some(ip)
    }

    fn remove_free(&mut self, ip: IpAddr) -> bool {
        let before = self.free.len();
        self.free.retain(|(free, _)| *free != ip);
        self.free.len() < before
    }

    fn counts(&self, now: Duration) -> Counts {
        let cooling = self
            .free
            .iter()
            .filter(|free| is_cooling(free, now))
            .count();
        let foreign = self.foreign.iter().filter(|ip| !self.held.contains(ip));
        Counts {
            free: self.free.len() - cooling,
            held: self.held.len(),
            cooling,
            foreign: foreign.count(),
        }
    }

    fn state(
        &self,
        ip: IpAddr,
        now: Duration,
        reserved: &ReservedAddresses,
    ) -> Option<AddressState> {
        if !self.blocks.keys().any(|block| block.contains(ip)) {
            return None;
        }
        if let Some(reason) = reserved.reason(ip) {
            return Some(AddressState::Reserved(reason));
        }
        let state = match (self.held.contains(&ip), self.foreign.contains(&ip)) {
            (true, true) => AddressState::Contested,
            (true, false) => AddressState::Held,
            (false, true) => AddressState::Foreign,
            (false, false) => {
                let free = self.free.iter().find(|(free, _)| *free == ip).unwrap();
                match free.1 {
                    Some(released) if is_cooling(free, now) => AddressState::Cooling {
                        until: released + COOLDOWN,
                    },
                    _ => AddressState::Free,
                }
            }
        };
        Some(state)
    }
}

fn is_cooling(free: &(IpAddr, Option<Duration>), now: Duration) -> bool {
    free.1.is_some_and(|released| now < released + COOLDOWN)
}

fn address(number: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, number])
}
