//! The part of an allocation that asks the store: what the node has in a network, who has an address, another block.
//!
//! One task at a time claims for a network; those that waited for it find a free address and claim nothing.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};
use tracing::{debug, info};
use weft_ipam::{Block, BlockOwner, judge_static};
use weft_overlay::{
    claims::{BlockClaimed, Claim, ClaimBlock, Stored},
    id::{EndpointId, NetworkId, NodeId},
    keys::{Key, Keyspace},
    model::{BlockRecord, BlockState, EndpointRecord},
    store::Store,
    txn::{KeyValue, Op, Txn},
};

use super::{
    AddressShape, AllocationError, Allocator, Book, HolderName, NetworkBook, Place, StandingError, book::BlockFound,
    claimed,
};
use crate::control::submit::SubmitError;

/// How old the list of others' blocks may be.
const CLAIMED_AGE: Duration = Duration::from_secs(30);

/// Blocks that are tried before the list of others' blocks is read again.
const TRIES_PER_LIST: usize = 8;

/// Blocks whose records and endpoints are read in one transaction.
const BLOCKS_PER_READ: usize = 50;

/// Whether there is an address now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Supply {
    Added,
    NoneFree,
}

/// What a claim of a block is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Somebody waits for an address.
    Attach,
    /// So that nobody has to wait.
    Reserve,
}

impl<S: Store> Allocator<S> {
    /// The network's book, read from the store at the first use.
    pub(super) async fn open(&self, place: &Place<'_>) -> Result<(Arc<NetworkBook>, AddressShape), AllocationError> {
        let entry = {
            let mut networks = self.inner.networks.lock().unwrap_or_else(PoisonError::into_inner);
            networks.entry(place.network).or_default().clone()
        };
        if let Some(shape) = entry.with(|book| (!book.is_unread()).then(|| book.shape().clone())).flatten() {
            return Ok((entry, shape));
        }
        let shape = AddressShape::of(&place.spec.record)?;
        {
            let mut book = entry.book.lock().unwrap_or_else(PoisonError::into_inner);
            book.get_or_insert_with(|| Book::unread(self.inner.node, shape.clone(), self.inner.settings.cooldown));
        }
        let gate = timeout_at(place.deadline, entry.gate.lock()).await;
        let gate = gate.map_err(|_| claimed(SubmitError::Unknown { source: None }))?;
        self.read_if_unread(place.network, &entry, place.deadline).await?;
        drop(gate);
        Ok((entry, shape))
    }

    /// Has the book read again, keeping what the store may not show yet. Reservations stay valid.
    pub(super) fn invalidate(&self, entry: &NetworkBook) {
        entry.with(|book| book.start_over(self.inner.settings.cooldown));
    }

    /// Reads what the node has in a network; the caller holds the gate.
    pub(super) async fn read_if_unread(
        &self,
        network: NetworkId,
        entry: &NetworkBook,
        deadline: Instant,
    ) -> Result<(), AllocationError> {
        let Some(shape) = entry.with(|book| book.is_unread().then(|| book.shape().clone())).flatten() else {
            return Ok(());
        };
        let mut read = Book::unread(self.inner.node, shape, self.inner.settings.cooldown);
        self.read_blocks(network, &mut read, deadline).await?;
        let now = self.now();
        entry.with(|book| book.complete(read, now));
        Ok(())
    }

    /// Reads the node's blocks in a network, and the endpoints in them, into a book.
    async fn read_blocks(&self, network: NetworkId, book: &mut Book, deadline: Instant) -> Result<(), AllocationError> {
        let client = &self.inner.client;
        let keys = client.keys();
        let index = client.list(keys.block_index(self.inner.node), deadline).await?;
        let bases: Vec<IpAddr> = index
            .kvs
            .iter()
            .filter_map(|kv| match keys.decode(&kv.key) {
                Ok(Key::BlockIndex(_, of, base)) if of == network => Some(base),
                _ => None,
            })
            .collect();
        for bases in bases.chunks(BLOCKS_PER_READ) {
            let blocks: Vec<Block> = bases.iter().filter_map(|base| book.shape().layout.block_of(*base)).collect();
            let mut then = Vec::with_capacity(2 * blocks.len());
            for block in &blocks {
                then.push(Op::Read(keys.encode(&Key::Block(network, block.base()))));
                then.push(read_endpoints(keys, network, *block));
            }
            let reply = client.transact(Txn { then, ..Txn::default() }, deadline).await?;
            for block in blocks {
                let record = client.found::<BlockRecord>(&reply, &Key::Block(network, block.base()))?;
                let ours =
                    |b: &Stored<BlockRecord>| b.record.node == self.inner.node && b.record.st == BlockState::Owned;
                if let Some(record) = record.filter(ours) {
                    let range = keys.endpoints_in(network, block.network());
                    let inside = reply.reads.iter().flatten().filter(|kv| range.contains(&kv.key));
                    let endpoints = endpoints(keys, inside);
                    self.add(book, BlockFound { block, record, endpoints, fresh: false });
                }
            }
        }
        Ok(())
    }

    /// Any address: a free one of ours, one of another block, or the one that was released longest ago.
    pub(super) async fn choose_any(
        &self,
        place: &Place<'_>,
        entry: &NetworkBook,
        id: EndpointId,
    ) -> Result<IpAddr, AllocationError> {
        loop {
            if let Some(chosen) = entry.with(|book| book.take(id, self.now())).flatten() {
                return Ok(chosen);
            }
            if self.claim_block(place, entry, Purpose::Attach).await? == Supply::Added {
                continue;
            }
            return match entry.with(|book| book.take_coolest(id)).flatten() {
                Some(chosen) => {
                    debug!(network = %place.network, ip = %chosen, "no rested address left; handing out the coolest");
                    Ok(chosen)
                }
                None => Err(self.exhausted(place, entry).await?),
            };
        }
    }

    /// The address that a user asked for.
    pub(super) async fn choose_asked(
        &self,
        place: &Place<'_>,
        entry: &NetworkBook,
        ip: IpAddr,
        id: EndpointId,
    ) -> Result<IpAddr, AllocationError> {
        let layout =
            entry.with(|book| (book.shape().layout, book.shape().reserved.clone(), book.own_block(ip).is_some()));
        let Some((layout, reserved, own)) = layout else { return Err(AllocationError::Busy(ip)) };
        let mut owner = own.then_some(BlockOwner::Own);
        let usable = layout.subnet().contains(ip) && reserved.reason(ip).is_none();
        if usable && !own {
            owner = self.ask_about(place, &layout, ip).await?.map(BlockOwner::Other);
        }
        let verdict = judge_static(ip, &layout, &reserved, |_| owner);
        if let Some(refusal) = verdict.refusal(ip, layout.subnet()) {
            return Err(refusal.into());
        }
        let taken = entry.with(|book| book.take_asked(ip, id));
        match taken.flatten() {
            Some(chosen) => Ok(chosen),
            None => Err(self.why_not(place, ip).await?),
        }
    }

    /// The name of the node whose block an address is in, if it is another one's; fails when the address is taken.
    async fn ask_about(
        &self,
        place: &Place<'_>,
        layout: &weft_ipam::BlockLayout,
        ip: IpAddr,
    ) -> Result<Option<String>, AllocationError> {
        let client = &self.inner.client;
        let endpoint = Key::Endpoint(place.network, ip);
        let block = Key::Block(place.network, layout.block_of(ip).map_or(ip, |block| block.base()));
        let reply = client.read([&endpoint, &block], place.deadline).await?;
        if let Some(holder) = client.found::<EndpointRecord>(&reply, &endpoint)? {
            return Err(AllocationError::Taken {
                address: ip,
                holder: self.name_of(&holder.record, place.deadline).await,
            });
        }
        match client.found::<BlockRecord>(&reply, &block)? {
            Some(block) if block.record.st == BlockState::Owned && block.record.node != self.inner.node => {
                Ok(Some(self.node_name(block.record.node, place.deadline).await))
            }
            _ => Ok(None),
        }
    }

    async fn why_not(&self, place: &Place<'_>, ip: IpAddr) -> Result<AllocationError, AllocationError> {
        let client = &self.inner.client;
        let endpoint = Key::Endpoint(place.network, ip);
        let reply = client.read([&endpoint], place.deadline).await?;
        Ok(match client.found::<EndpointRecord>(&reply, &endpoint)? {
            Some(holder) => {
                let holder = self.name_of(&holder.record, place.deadline).await;
                AllocationError::Taken { address: ip, holder }
            }
            None => AllocationError::Busy(ip),
        })
    }

    pub(super) async fn name_of(&self, endpoint: &EndpointRecord, deadline: Instant) -> HolderName {
        let node = self.node_name(endpoint.node, deadline).await;
        HolderName { endpoint: endpoint.id, name: Some(endpoint.name.clone()), node }
    }

    /// Claims another block, unless the one who came before has brought what was wanted.
    pub(super) async fn claim_block(
        &self,
        place: &Place<'_>,
        entry: &NetworkBook,
        purpose: Purpose,
    ) -> Result<Supply, AllocationError> {
        let gate = timeout_at(place.deadline, entry.gate.lock()).await;
        let _gate = gate.map_err(|_| claimed(SubmitError::Unknown { source: None }))?;
        self.read_if_unread(place.network, entry, place.deadline).await?;
        loop {
            let now = self.now();
            let served = entry.with(|book| match purpose {
                Purpose::Attach => book.has_free(now),
                Purpose::Reserve => !book.needs_block(now),
            });
            if served.unwrap_or_default() {
                return Ok(Supply::Added);
            }
            let listed = !entry.with(|book| book.claimed_is_fresh(now, CLAIMED_AGE)).unwrap_or_default();
            if listed {
                self.list_claimed(place, entry).await?;
            }
            if self.try_candidates(place, entry).await? {
                return Ok(Supply::Added);
            }
            if listed && entry.with(|book| book.candidate(seed(self.inner.node)).is_none()).unwrap_or(true) {
                return Ok(Supply::NoneFree);
            }
            entry.with(Book::expire_claimed);
        }
    }

    async fn list_claimed(&self, place: &Place<'_>, entry: &NetworkBook) -> Result<(), AllocationError> {
        let client = &self.inner.client;
        let page = client.list(client.keys().blocks(place.network), place.deadline).await?;
        let blocks = client.records::<BlockRecord, _>(&page, |key| match key {
            Key::Block(_, base) => Some(base),
            _ => None,
        })?;
        let others = |record: &BlockRecord| record.node != self.inner.node || record.st != BlockState::Owned;
        let claimed: BTreeSet<Block> = blocks
            .into_iter()
            .filter(|(_, stored)| others(&stored.record))
            .filter_map(|(base, stored)| Block::new(base, stored.record.len).ok())
            .collect();
        let now = self.now();
        entry.with(|book| book.set_claimed(claimed, now));
        Ok(())
    }

    /// Tries some blocks; whether one is ours now.
    async fn try_candidates(&self, place: &Place<'_>, entry: &NetworkBook) -> Result<bool, AllocationError> {
        for _ in 0..TRIES_PER_LIST {
            let candidate = entry.with(|book| book.candidate(seed(self.inner.node))).flatten();
            let Some(block) = candidate else { return Ok(false) };
            if self.try_block(place, entry, block).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn try_block(&self, place: &Place<'_>, entry: &NetworkBook, block: Block) -> Result<bool, AllocationError> {
        let client = &self.inner.client;
        let keys = client.keys();
        let Place { network, spec, token, deadline } = *place;
        let claim = ClaimBlock { token, network, spec_revision: spec.revision, block: block.network() };
        let mut txn = claim.txn(keys);
        // Addresses that users chose may be in the block already.
        txn.then.push(read_endpoints(keys, network, block));
        txn.or_else.push(read_endpoints(keys, network, block));
        let reply = client.transact(txn, deadline).await?;
        let outcome = claim.outcome(keys, &reply).map_err(SubmitError::from)?;
        let range = keys.endpoints_in(network, block.network());
        let inside = endpoints(keys, reply.reads.iter().flatten().filter(|kv| range.contains(&kv.key)));
        let (record, fresh) = match outcome {
            BlockClaimed::Claimed(revision) => {
                info!(%network, %block, revision, "claimed a block");
                (Stored { record: owned(self.inner.node, token.epoch, block), revision, lease: 0 }, true)
            }
            // Possibly since long ago: nobody knows when its addresses were released.
            BlockClaimed::AlreadyOurs(record) => (record, false),
            BlockClaimed::Taken(_) => {
                entry.with(|book| book.note_claimed(block));
                return Ok(false);
            }
            BlockClaimed::Fenced(fence) => {
                self.inner.registration.recheck();
                return Err(StandingError::from_fence(
                    self.inner.registration.name.clone(),
                    fence.map(|f| f.record.state),
                )
                .into());
            }
            BlockClaimed::SpecChanged(_) => {
                return Err(AllocationError::NetworkChanged(spec.record.name.clone()));
            }
        };
        entry.with(|book| self.add(book, BlockFound { block, record, endpoints: inside, fresh }));
        Ok(true)
    }

    fn add(&self, book: &mut Book, found: BlockFound) {
        let block = found.block;
        if let Err(error) = book.add_block(found, self.now()) {
            tracing::error!(%block, %error, "a block of this node does not fit its network");
        }
    }
}

/// Where a node begins its search, so that rivals begin far apart.
fn seed(node: NodeId) -> u64 {
    u64::from_str_radix(&node.to_string(), 16).unwrap_or_default()
}

fn owned(node: NodeId, epoch: u64, block: Block) -> BlockRecord {
    BlockRecord {
        v: weft_overlay::model::RECORD_VERSION,
        node,
        epoch,
        len: block.prefix_len(),
        st: BlockState::Owned,
        extra: Default::default(),
    }
}

fn read_endpoints(keys: &Keyspace, network: NetworkId, block: Block) -> Op {
    Op::ReadRange(keys.endpoints_in(network, block.network()), weft_ipam::block::MAX_BLOCK_SIZE as usize)
}

/// The endpoints among some keys; what cannot be read still occupies its key, which the store will say when asked.
fn endpoints<'a>(keys: &Keyspace, kvs: impl Iterator<Item = &'a KeyValue>) -> Vec<(IpAddr, EndpointRecord)> {
    kvs.filter_map(|kv| match keys.decode(&kv.key) {
        Ok(Key::Endpoint(_, ip)) => Some((ip, Stored::decode(kv).ok()?.record)),
        _ => None,
    })
    .collect()
}
