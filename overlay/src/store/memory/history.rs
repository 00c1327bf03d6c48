//! Keys with all their versions, and the transactions that make new ones: the part of etcd that has no clock.
//!
//! A transaction's writes share one revision; its reads see its own earlier writes; it is void as a whole when it names
//! a lease that has ended. The first revision is 1, of the empty store.

use std::collections::{BTreeMap, BTreeSet};

use super::{ENDPOINT, StoreError};
use crate::{
    claims::MAX_TXN_OPS,
    keys::KeyRange,
    store::Event,
    txn::{Compare, KeyValue, Op, Revision, Txn, TxnReply},
};

/// What one revision changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The revision.
    pub revision: Revision,
    /// Which client made it; `None`: a lease has ended.
    pub client: Option<String>,
    /// The changes, in order.
    pub events: Vec<Event>,
}

#[derive(Debug, Default)]
pub(super) struct History {
    keys: BTreeMap<Vec<u8>, Vec<Version>>,
    /// One for every revision from 2 on.
    commits: Vec<Commit>,
    compacted: Revision,
}

#[derive(Debug)]
struct Version {
    revision: Revision,
    /// `None`: the key was deleted.
    kv: Option<KeyValue>,
}

impl History {
    pub(super) fn revision(&self) -> Revision {
        Revision::try_from(self.commits.len()).expect("a test makes fewer commits than that") + 1
    }

    pub(super) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(super) fn commits(&self) -> &[Commit] {
        &self.commits
    }

    /// The commits from this revision on.
    pub(super) fn since(&self, revision: Revision) -> &[Commit] {
        let skip = usize::try_from(revision - 2).unwrap_or(0).min(self.commits.len());
        &self.commits[skip..]
    }

    /// Carries out a transaction.
    pub(super) fn apply(
        &mut self,
        txn: &Txn,
        client: &str,
        lease_exists: impl Fn(i64) -> bool,
    ) -> Result<TxnReply, StoreError> {
        check(txn)?;
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.or_else };
        if let Some(lease) = leases_of(ops).find(|lease| !lease_exists(*lease)) {
            return Err(StoreError::LeaseNotFound { lease });
        }
        let mut events = Vec::new();
        let reads = ops.iter().map(|op| self.carry_out(op, &mut events)).collect();
        self.commit(Some(client.to_owned()), events);
        Ok(TxnReply { succeeded, revision: self.revision(), reads })
    }

    /// Lists as of a revision, 0 for now; also whether there is more than `limit`.
    pub(super) fn list(
        &self,
        range: &KeyRange,
        limit: usize,
        revision: Revision,
    ) -> Result<(Vec<KeyValue>, bool), StoreError> {
        if revision > self.revision() {
            let reason = "required revision is a future revision".to_owned();
            return Err(StoreError::Unavailable { endpoint: ENDPOINT.to_owned(), reason });
        }
        if revision != 0 && revision < self.compacted {
            return Err(StoreError::Compacted { revision });
        }
        let at = if revision == 0 { self.revision() } else { revision };
        let limit = if limit == 0 { usize::MAX } else { limit };
        let mut found = self.as_of(range, at);
        let kvs = found.by_ref().take(limit).cloned().collect();
        Ok((kvs, found.next().is_some()))
    }

    /// What is in a range now.
    pub(super) fn current(&self, range: &KeyRange) -> impl Iterator<Item = &KeyValue> {
        self.as_of(range, Revision::MAX)
    }

    pub(super) fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision <= self.compacted {
            return Err(StoreError::Compacted { revision });
        }
        if revision > self.revision() {
            return Err(refused("required revision is a future revision"));
        }
        self.compacted = revision;
        self.keys.retain(|_, versions| {
            let newest = versions.partition_point(|v| v.revision <= revision).saturating_sub(1);
            versions.drain(..newest);
            versions.iter().any(|v| v.revision > revision || v.kv.is_some())
        });
        Ok(())
    }

    pub(super) fn compact_all(&mut self) {
        self.compact(self.revision()).unwrap_or_default();
    }

    /// Deletes the keys that hang on a lease, all in one revision.
    pub(super) fn delete_leased(&mut self, lease: i64) {
        let leased = |versions: &[Version]| latest(versions).is_some_and(|kv| kv.lease == lease);
        let keys: Vec<_> = self.keys.iter().filter(|(_, v)| leased(v)).map(|(key, _)| key.clone()).collect();
        let mut events = Vec::new();
        for key in keys {
            self.delete(key, &mut events);
        }
        self.commit(None, events);
    }

    fn holds(&self, compare: &Compare) -> bool {
        let key = |key: &Vec<u8>| self.keys.get(key).and_then(|versions| latest(versions));
        match compare {
            Compare::Absent(k) => key(k).is_none(),
            Compare::At(k, revision) => key(k).map_or(0, |kv| kv.mod_revision) == *revision,
            Compare::CreatedAt(k, revision) => key(k).map_or(0, |kv| kv.create_revision) == *revision,
            Compare::Empty(range) => self.current(range).next().is_none(),
        }
    }

    fn carry_out(&mut self, op: &Op, events: &mut Vec<Event>) -> Vec<KeyValue> {
        match op {
            Op::Put { key, value, lease } => self.put(key, value, lease.unwrap_or(0), events),
            Op::Delete(key) => self.delete(key.clone(), events),
            Op::DeleteRange(range) => {
                let keys: Vec<_> = self.current(range).map(|kv| kv.key.clone()).collect();
                keys.into_iter().for_each(|key| self.delete(key, events));
            }
            Op::Read(key) => return self.keys.get(key).and_then(|v| latest(v)).cloned().into_iter().collect(),
            Op::ReadRange(range, limit) => {
                let limit = if *limit == 0 { usize::MAX } else { *limit };
                return self.current(range).take(limit).cloned().collect();
            }
        }
        Vec::new()
    }

    fn put(&mut self, key: &[u8], value: &[u8], lease: i64, events: &mut Vec<Event>) {
        let revision = self.revision() + 1;
        let versions = self.keys.entry(key.to_vec()).or_default();
        let create_revision = latest(versions).map_or(revision, |kv| kv.create_revision);
        let kv = KeyValue { key: key.to_vec(), value: value.to_vec(), create_revision, mod_revision: revision, lease };
        versions.push(Version { revision, kv: Some(kv.clone()) });
        events.push(Event::Put(kv));
    }

    fn delete(&mut self, key: Vec<u8>, events: &mut Vec<Event>) {
        let revision = self.revision() + 1;
        let Some(versions) = self.keys.get_mut(&key).filter(|v| latest(v).is_some()) else { return };
        versions.push(Version { revision, kv: None });
        events.push(Event::Delete { key, revision });
    }

    fn commit(&mut self, client: Option<String>, events: Vec<Event>) {
        if !events.is_empty() {
            let revision = self.revision() + 1;
            self.commits.push(Commit { revision, client, events });
        }
    }

    fn as_of(&self, range: &KeyRange, revision: Revision) -> impl Iterator<Item = &KeyValue> {
        let ordered = range.start < range.end;
        let bounds = if ordered { range.start.clone()..range.end.clone() } else { Vec::new()..Vec::new() };
        self.keys.range(bounds).filter_map(move |(_, versions)| {
            let newer = versions.partition_point(|v| v.revision <= revision);
            latest(&versions[..newer])
        })
    }
}

fn latest(versions: &[Version]) -> Option<&KeyValue> {
    versions.last().and_then(|version| version.kv.as_ref())
}

fn leases_of(ops: &[Op]) -> impl Iterator<Item = i64> + '_ {
    ops.iter().filter_map(|op| match op {
        Op::Put { lease, .. } => *lease,
        Op::Delete(_) | Op::DeleteRange(_) | Op::Read(_) | Op::ReadRange(..) => None,
    })
}

/// What etcd refuses before it looks at any key.
fn check(txn: &Txn) -> Result<(), StoreError> {
    if txn.compares.len().max(txn.then.len()).max(txn.or_else.len()) > MAX_TXN_OPS {
        return Err(refused("too many operations in txn request"));
    }
    let compared = txn.compares.iter().map(|compare| match compare {
        Compare::Absent(key) | Compare::At(key, _) | Compare::CreatedAt(key, _) => key,
        Compare::Empty(range) => &range.start,
    });
    let named = txn.then.iter().chain(&txn.or_else).map(|op| match op {
        Op::Put { key, .. } | Op::Delete(key) | Op::Read(key) => key,
        Op::DeleteRange(range) | Op::ReadRange(range, _) => &range.start,
    });
    if compared.chain(named).any(Vec::is_empty) {
        return Err(refused("key is not provided"));
    }
    check_writes(&txn.then)?;
    check_writes(&txn.or_else)
}

/// A key may be put once, and not also be deleted.
fn check_writes(ops: &[Op]) -> Result<(), StoreError> {
    let mut put = BTreeSet::new();
    for op in ops {
        if let Op::Put { key, .. } = op
            && !put.insert(key)
        {
            return Err(refused("duplicate key given in txn request"));
        }
    }
    let deleted = |op: &Op| match op {
        Op::Delete(key) => put.contains(key),
        Op::DeleteRange(range) => put.iter().any(|key| range.contains(key)),
        Op::Put { .. } | Op::Read(_) | Op::ReadRange(..) => false,
    };
    if ops.iter().any(deleted) { Err(refused("duplicate key given in txn request")) } else { Ok(()) }
}

fn refused(reason: &str) -> StoreError {
    StoreError::Refused { reason: format!("etcdserver: {reason}") }
}
