//! The store as one process of the simulation sees it; for mutants, without some of the conditions that keep it right.

use std::time::Duration;

use weft_overlay::{
    keys::{Key, KeyRange, Keyspace},
    store::{Lease, ListRequest, Page, Store, StoreError, Watch, WatchRequest, memory::MemoryStore},
    txn::{Compare, Op, Txn, TxnReply},
};

/// A mistake that the checker must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    None,
    /// Endpoints are registered in blocks that may have been taken away.
    NoBlockCompare,
    /// Nodes that were given up go on writing.
    NoFenceCompare,
    /// Controllers that were replaced go on cleaning up.
    NoLeadershipCompare,
    /// A block that is given back or taken is free at once.
    NoQuarantine,
    /// Networks and blocks are removed while something is in them.
    NoEmptyCompare,
    /// A released address is handed out again at once.
    NoCooldown,
    /// No answer counts as a refusal.
    AmbiguousIsFailure,
    /// An endpoint overwrites another one.
    NoAddressCompare,
}

#[derive(Debug, Clone)]
pub(crate) struct FaultyStore {
    pub(crate) store: MemoryStore,
    pub(crate) mutant: Mutant,
    pub(crate) keys: Keyspace,
}

impl FaultyStore {
    fn keeps(&self, compare: &Compare) -> bool {
        let key = match compare {
            Compare::Absent(key) | Compare::At(key, _) | Compare::CreatedAt(key, _) => self.keys.decode(key).ok(),
            Compare::Empty(_) => None,
        };
        !matches!(
            (self.mutant, compare, key),
            (Mutant::NoBlockCompare, Compare::At(..), Some(Key::Block(..)))
                | (Mutant::NoFenceCompare, Compare::At(..), Some(Key::Fence(_)))
                | (Mutant::NoLeadershipCompare, Compare::CreatedAt(..), _)
                | (Mutant::NoEmptyCompare, Compare::Empty(_), _)
                | (Mutant::NoAddressCompare, Compare::Absent(_), Some(Key::Endpoint(..)))
        )
    }

    fn mutate(&self, mut txn: Txn) -> Txn {
        txn.compares.retain(|compare| self.keeps(compare));
        if self.mutant == Mutant::NoQuarantine {
            for op in &mut txn.then {
                if let Op::Put { key, lease: Some(_), .. } = op
                    && let Ok(Key::Block(..)) = self.keys.decode(key)
                {
                    *op = Op::Delete(key.clone());
                }
            }
        }
        txn
    }
}

impl Store for FaultyStore {
    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        let endpoint = |op: &Op| match op {
            Op::Put { key, .. } => matches!(self.keys.decode(key), Ok(Key::Endpoint(..))),
            _ => false,
        };
        let creates = txn.then.iter().any(endpoint);
        let result = self.store.txn(self.mutate(txn)).await;
        match result {
            Err(StoreError::Unavailable { reason, .. }) if creates && self.mutant == Mutant::AmbiguousIsFailure => {
                Err(StoreError::Refused { reason })
            }
            result => result,
        }
    }

    async fn list(&self, request: ListRequest) -> Result<Page, StoreError> {
        self.store.list(request).await
    }

    async fn watch(&self, request: WatchRequest) -> Result<Watch, StoreError> {
        self.store.watch(request).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: i64) -> Result<Duration, StoreError> {
        self.store.keep_alive(lease).await
    }

    async fn time_to_live(&self, lease: i64) -> Result<Duration, StoreError> {
        self.store.time_to_live(lease).await
    }

    async fn revoke(&self, lease: i64) -> Result<(), StoreError> {
        self.store.revoke(lease).await
    }

    fn endpoint(&self) -> String {
        self.store.endpoint()
    }
}

/// The keys of a range, without their histories.
pub(crate) fn now(store: &MemoryStore, range: &KeyRange) -> Vec<(Vec<u8>, Vec<u8>)> {
    store.read_now(range).into_iter().map(|kv| (kv.key, kv.value)).collect()
}
