//! A node's blocks of addresses: claiming one, and giving an empty one back.
//!
//! A block is a contiguous range of endpoint keys, so that "empty" is one condition of the store. A block that was given
//! back cools down on a lease that nobody renews, and is free when that has run out.

use ipnetwork::IpNetwork;

use super::{Claim, Draft, FenceNow, ReplyError, Stored, Token, reply::Found};
use crate::{
    id::NetworkId,
    keys::{Key, Keyspace},
    model::{BlockRecord, BlockState, NetworkSpec, RECORD_VERSION},
    txn::{Compare, Op, Revision, Txn, TxnReply},
};

/// Takes a free block.
#[derive(Debug, Clone)]
pub struct ClaimBlock {
    /// Whose it shall be.
    pub token: Token,
    /// The network.
    pub network: NetworkId,
    /// The revision of the network's specification that the block was computed from.
    pub spec_revision: Revision,
    /// The block.
    pub block: IpNetwork,
}

/// What became of [`ClaimBlock`].
#[derive(Debug, Clone, PartialEq)]
pub enum BlockClaimed {
    /// It is ours, since this revision, which endpoints in it must name.
    Claimed(Revision),
    /// It was ours already; also when an earlier attempt succeeded.
    AlreadyOurs(Stored<BlockRecord>),
    /// Another node has it, or it is cooling down.
    Taken(Stored<BlockRecord>),
    /// The token is void.
    Fenced(FenceNow),
    /// The network was changed, or is gone.
    SpecChanged(Option<Stored<NetworkSpec>>),
}

impl Claim for ClaimBlock {
    type Outcome = BlockClaimed;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let base = self.block.network();
        let key = keys.encode(&Key::Block(self.network, base));
        let spec = keys.encode(&Key::Spec(self.network));
        let record = BlockRecord {
            v: RECORD_VERSION,
            node: self.token.node,
            epoch: self.token.epoch,
            len: self.block.prefix(),
            st: BlockState::Owned,
            extra: Default::default(),
        };
        let mut draft = Draft::default();
        draft
            .require(Compare::At(spec.clone(), self.spec_revision))
            .require(self.token.holds(keys))
            .require(Compare::Absent(key.clone()))
            .put(key.clone(), &record)
            .write(Op::put(keys.encode(&Key::BlockIndex(self.token.node, self.network, base)), Vec::new()))
            .else_read(key)
            .else_read(spec)
            .else_read(self.token.fence_key(keys));
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<BlockClaimed, ReplyError> {
        if reply.succeeded {
            return Ok(BlockClaimed::Claimed(reply.revision));
        }
        let found = Found::new(keys, reply);
        if let Some(fence) = found.fenced(&self.token)? {
            return Ok(BlockClaimed::Fenced(fence));
        }
        let block = found.record::<BlockRecord>(&Key::Block(self.network, self.block.network()))?;
        if let Some(block) = &block
            && block.record.st == BlockState::Owned
            && block.record.node == self.token.node
        {
            return Ok(BlockClaimed::AlreadyOurs(block.clone()));
        }
        if let Some(spec) = found.spec_changed(self.network, self.spec_revision)? {
            return Ok(BlockClaimed::SpecChanged(spec));
        }
        block.map(BlockClaimed::Taken).ok_or(ReplyError::Unexplained { claim: "a block" })
    }
}

/// Gives an empty block back, to cool down.
#[derive(Debug, Clone)]
pub struct ReleaseBlock {
    /// Whose it is.
    pub token: Token,
    /// The network.
    pub network: NetworkId,
    /// The block.
    pub block: IpNetwork,
    /// Its record.
    pub record: Stored<BlockRecord>,
    /// The lease that it cools down on, never to be renewed.
    pub cooling_lease: i64,
}

/// What became of [`ReleaseBlock`].
#[derive(Debug, Clone, PartialEq)]
pub enum BlockReleased {
    /// It is cooling down, or has done so already.
    Released,
    /// An endpoint is in it, possibly another node's with an address of the user's choice.
    InUse(Key),
    /// It is not ours any more.
    Lost(Stored<BlockRecord>),
    /// The token is void.
    Fenced(FenceNow),
}

impl Claim for ReleaseBlock {
    type Outcome = BlockReleased;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let key = keys.encode(&Key::Block(self.network, self.block.network()));
        let endpoints = keys.endpoints_in(self.network, self.block);
        let mut draft = Draft::default();
        draft
            .require(self.token.holds(keys))
            .require(Compare::At(key.clone(), self.record.revision))
            .require(Compare::Empty(endpoints.clone()))
            .put_leased(key.clone(), &cooling(&self.record), self.cooling_lease)
            .delete(keys.encode(&Key::BlockIndex(self.token.node, self.network, self.block.network())))
            .else_read(key)
            .else_read(self.token.fence_key(keys))
            .else_read_some(endpoints, 1);
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<BlockReleased, ReplyError> {
        if reply.succeeded {
            return Ok(BlockReleased::Released);
        }
        let found = Found::new(keys, reply);
        let key = Key::Block(self.network, self.block.network());
        if let Some(now) = found.changed::<BlockRecord>(&key, self.record.revision)? {
            let Some(block) = now.filter(|b| b.lease != self.cooling_lease) else { return Ok(BlockReleased::Released) };
            return Ok(match found.fenced(&self.token)? {
                Some(fence) => BlockReleased::Fenced(fence),
                None => BlockReleased::Lost(block),
            });
        }
        if let Some(fence) = found.fenced(&self.token)? {
            return Ok(BlockReleased::Fenced(fence));
        }
        first_key(&found, keys, keys.endpoints_in(self.network, self.block))
            .map(BlockReleased::InUse)
            .ok_or(ReplyError::Unexplained { claim: "the return of a block" })
    }
}

/// A block's record while it cools down.
pub(super) fn cooling(block: &Stored<BlockRecord>) -> BlockRecord {
    BlockRecord { st: BlockState::Cooling, ..block.record.clone() }
}

pub(super) fn first_key(found: &Found<'_>, keys: &Keyspace, range: crate::keys::KeyRange) -> Option<Key> {
    found.within(range).find_map(|kv| keys.decode(&kv.key).ok())
}
