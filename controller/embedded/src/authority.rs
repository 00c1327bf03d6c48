//! Who may write what, where clients show certificates: a node writes what is its own, and nothing else.
//!
//! etcd's own permissions are prefixes, and endpoints of all nodes share one; here the record tells whose it is. Decided
//! by the writer against the state that the write is applied to, so that nobody can slip in between. Reads are free to
//! all who have a certificate. Must not know connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;

use crate::{
    draft::{Resolved, Step},
    lease::Leases,
    mvcc::{Mvcc, Revision, Span},
    refusal::Refusal,
};

/// On whose behalf a request is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Somebody who may do everything: any client of a store without certificates, an administrator, the controller.
    Unrestricted,
    /// The agent of the node of this name.
    Node(Arc<str>),
}

/// Where the cluster's keys are.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    pub(crate) root: String,
}

/// What one request would write.
#[derive(Debug, Default)]
struct Writes {
    puts: BTreeMap<Vec<u8>, Vec<u8>>,
    deletes: BTreeSet<Vec<u8>>,
}

/// One decision: the state, and what would be written to it together.
struct Judgement<'a> {
    root: &'a str,
    name: &'a str,
    mvcc: &'a Mvcc,
    writes: &'a Writes,
}

impl Authority {
    /// Whether a caller may carry out a transaction.
    pub(crate) fn check_txn(
        &self,
        caller: &Caller,
        (mvcc, leases): (&Mvcc, &Leases),
        resolved: &Resolved<'_>,
    ) -> Result<(), Refusal> {
        let Caller::Node(name) = caller else { return Ok(()) };
        let mut writes = Writes::default();
        resolved.visit(&mut |step| {
            writes.add(mvcc, leases, step);
            Ok::<_, Refusal>(())
        })?;
        self.judge(name, mvcc, &writes)
    }

    /// Whether a caller may carry out a single operation.
    pub(crate) fn check_step(
        &self,
        caller: &Caller,
        (mvcc, leases): (&Mvcc, &Leases),
        step: &Step<'_>,
    ) -> Result<(), Refusal> {
        let Caller::Node(name) = caller else { return Ok(()) };
        let mut writes = Writes::default();
        writes.add(mvcc, leases, step);
        self.judge(name, mvcc, &writes)
    }

    /// Whether a caller may renew or end a lease: all that hangs on it must be its own.
    pub(crate) fn check_lease(&self, caller: &Caller, mvcc: &Mvcc, leases: &Leases, id: i64) -> Result<(), Refusal> {
        let (Caller::Node(name), Some(lease)) = (caller, leases.find(id)) else { return Ok(()) };
        let deletes = lease.keys.iter().map(|key| key.to_vec()).collect();
        self.judge(name, mvcc, &Writes { deletes, ..Writes::default() })
    }

    /// Whether a caller may make history unreadable.
    pub(crate) fn check_compact(caller: &Caller) -> Result<(), Refusal> {
        match caller {
            Caller::Unrestricted => Ok(()),
            Caller::Node(name) => Err(Refusal::PermissionDenied {
                subject: name.to_string(),
                object: "the history".to_owned(),
                rule: "only administrators compact it",
            }),
        }
    }

    fn judge(&self, name: &str, mvcc: &Mvcc, writes: &Writes) -> Result<(), Refusal> {
        let judgement = Judgement { root: &self.root, name, mvcc, writes };
        let puts = writes.puts.iter().map(|(key, value)| (key, Some(value.as_slice())));
        let deletes = writes.deletes.iter().map(|key| (key, None));
        for (key, value) in puts.chain(deletes) {
            judgement.judge(key, value).map_err(|rule| Refusal::PermissionDenied {
                subject: name.to_owned(),
                object: String::from_utf8_lossy(key).into_owned(),
                rule,
            })?;
        }
        Ok(())
    }
}

impl Writes {
    fn add(&mut self, mvcc: &Mvcc, leases: &Leases, step: &Step<'_>) {
        match step {
            Step::Put(put) => {
                self.puts.insert(put.key.clone(), put.value.clone());
                // What hangs on a lease shares its fate, so it must be in the same hands.
                let fellows = leases.find(put.lease).into_iter().flat_map(|lease| &lease.keys);
                self.deletes.extend(fellows.map(|key| key.to_vec()));
            }
            Step::Delete(delete) => {
                let span = Span::new(&delete.key, &delete.range_end);
                self.deletes.extend(mvcc.span(&span, Revision::MAX).map(|version| version.key.to_vec()));
            }
            Step::Range(_) | Step::Txn(_) => {}
        }
    }
}

const OTHERS: &str = "it belongs to another node; use an administrator's certificate";
const ADMINISTRATORS: &str = "only administrators and the controller write it";

impl Judgement<'_> {
    /// Whether a key may be given a value, or be deleted; else the rule against it.
    fn judge(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), &'static str> {
        let path = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(self.root));
        let segments: Vec<&str> = path.ok_or(ADMINISTRATORS)?.split('/').collect();
        let mine = match segments.as_slice() {
            ["node" | "fence" | "live", node] | ["idx", node, ..] | ["net", _, "member", node] => self.owns(node),
            ["nodename", name] => *name == self.name,
            ["vtep", ..] => self.holds(key, value, |record| self.owned_by(record)),
            ["net", _, "ep", ..] => self.holds(key, value, |record| self.endpoint(&segments, record)),
            ["ipam", _, "blk", ..] => self.holds(key, value, |record| self.block(record)),
            ["netname", _] | ["vni", _] | ["net", _, "spec"] => true,
            _ => return Err(ADMINISTRATORS),
        };
        if mine { Ok(()) } else { Err(OTHERS) }
    }

    /// Whether both what is there and what is to come pass.
    fn holds(&self, key: &[u8], value: Option<&[u8]>, passes: impl Fn(&Value) -> bool) -> bool {
        let there = self.mvcc.at(key, Revision::MAX).and_then(|version| version.value.as_deref());
        [there, value].into_iter().flatten().all(|record| parse(record).is_some_and(|record| passes(&record)))
    }

    fn owned_by(&self, record: &Value) -> bool {
        record["node"].as_str().is_some_and(|node| self.owns(node))
    }

    /// A node's own endpoint, or one that a lost node left; a reference is whose the record is that it names.
    fn endpoint(&self, segments: &[&str], record: &Value) -> bool {
        if record.get("node").is_some() {
            return self.owned_by(record) || record["node"].as_str().is_some_and(|node| self.is_lost(node));
        }
        let Some(target) = record["ref"].as_str().and_then(|text| text.parse::<std::net::Ipv4Addr>().ok()) else {
            return false;
        };
        let key = format!("{}net/{}/ep/4/{:08x}", self.root, segments[1], u32::from(target)).into_bytes();
        let after = self.writes.puts.get(&key).map(Vec::as_slice);
        let there = self.mvcc.at(&key, Revision::MAX).and_then(|version| version.value.as_deref());
        let known: Vec<Value> = [there, after].into_iter().flatten().filter_map(parse).collect();
        !known.is_empty() && known.iter().all(|record| record.get("node").is_some() && self.endpoint(segments, record))
    }

    /// A node's own block, or one that nobody has.
    fn block(&self, record: &Value) -> bool {
        self.owned_by(record) || record["st"] == "cooling"
    }

    /// Whether a node id is this caller's: the record under it says so, or is written with it.
    fn owns(&self, node: &str) -> bool {
        let key = format!("{}node/{node}", self.root).into_bytes();
        let there = self.mvcc.at(&key, Revision::MAX).and_then(|version| version.value.as_deref());
        let record = there.or_else(|| self.writes.puts.get(&key).map(Vec::as_slice));
        record.and_then(parse).is_some_and(|record| record["name"] == self.name)
    }

    fn is_lost(&self, node: &str) -> bool {
        let key = format!("{}fence/{node}", self.root);
        let fence = self.mvcc.at(key.as_bytes(), Revision::MAX).and_then(|version| version.value.as_deref());
        fence.and_then(parse).is_some_and(|fence| fence["state"] == "lost")
    }
}

fn parse(value: &[u8]) -> Option<Value> {
    serde_json::from_slice(value).ok()
}
