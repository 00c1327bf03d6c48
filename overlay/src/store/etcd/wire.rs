//! Between the port's values and those of the client library.

use std::time::Duration;

use etcd_client::{
    Compare as PbCompare, CompareOp, DeleteOptions, EventType, GetOptions, PutOptions, TxnOp, TxnOpResponse,
};

use crate::{
    store::{Event, Page},
    txn::{Compare, KeyValue, Op, Txn, TxnReply},
};

pub(super) fn txn(txn: Txn) -> etcd_client::Txn {
    let ops = |ops: Vec<Op>| ops.into_iter().map(op).collect::<Vec<_>>();
    etcd_client::Txn::new()
        .when(txn.compares.into_iter().map(compare).collect::<Vec<_>>())
        .and_then(ops(txn.then))
        .or_else(ops(txn.or_else))
}

fn compare(compare: Compare) -> PbCompare {
    match compare {
        Compare::Absent(key) => PbCompare::create_revision(key, CompareOp::Equal, 0),
        Compare::At(key, revision) => PbCompare::mod_revision(key, CompareOp::Equal, revision),
        Compare::CreatedAt(key, revision) => PbCompare::create_revision(key, CompareOp::Equal, revision),
        // An empty range is compared as one key that does not exist.
        Compare::Empty(range) => PbCompare::create_revision(range.start, CompareOp::Equal, 0).with_range(range.end),
    }
}

fn op(op: Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => TxnOp::put(key, value, lease.map(|lease| PutOptions::new().with_lease(lease))),
        Op::Delete(key) => TxnOp::delete(key, None),
        Op::DeleteRange(range) => TxnOp::delete(range.start, Some(DeleteOptions::new().with_range(range.end))),
        Op::Read(key) => TxnOp::get(key, None),
        Op::ReadRange(range, most) => {
            TxnOp::get(range.start, Some(GetOptions::new().with_range(range.end).with_limit(limit(most))))
        }
    }
}

pub(super) fn reply(response: etcd_client::TxnResponse) -> TxnReply {
    let reads = |response| match response {
        TxnOpResponse::Get(mut get) => get.take_kvs().into_iter().map(key_value).collect(),
        TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => Vec::new(),
    };
    TxnReply {
        succeeded: response.succeeded(),
        revision: response.header().map_or(0, etcd_client::ResponseHeader::revision),
        reads: response.op_responses().into_iter().map(reads).collect(),
    }
}

pub(super) fn page(mut response: etcd_client::GetResponse) -> Page {
    let header = response.header();
    Page {
        revision: header.map_or(0, etcd_client::ResponseHeader::revision),
        cluster_id: header.map_or(0, etcd_client::ResponseHeader::cluster_id),
        more: response.more(),
        kvs: response.take_kvs().into_iter().map(key_value).collect(),
    }
}

pub(super) fn event(event: &etcd_client::Event) -> Option<Event> {
    let kv = event.kv()?;
    Some(match event.event_type() {
        EventType::Put => Event::Put(key_value(kv.clone())),
        EventType::Delete => Event::Delete { key: kv.key().to_vec(), revision: kv.mod_revision() },
    })
}

fn key_value(kv: etcd_client::KeyValue) -> KeyValue {
    let (create_revision, mod_revision, lease) = (kv.create_revision(), kv.mod_revision(), kv.lease());
    let (key, value) = kv.into_key_value();
    KeyValue { key, value, create_revision, mod_revision, lease }
}

/// The lease that a transaction names, or 0 where it names none or several.
pub(super) fn only_lease(txn: &Txn) -> i64 {
    let mut leases = txn.then.iter().filter_map(|op| match op {
        Op::Put { lease, .. } => *lease,
        Op::Delete(_) | Op::DeleteRange(_) | Op::Read(_) | Op::ReadRange(..) => None,
    });
    let first = leases.next().unwrap_or(0);
    if leases.all(|lease| lease == first) { first } else { 0 }
}

pub(super) fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}

/// Rounded up: a lease lives no shorter than was asked.
pub(super) fn whole_seconds(time: Duration) -> i64 {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// A TTL in seconds; negative and zero both say that there is no such lease.
pub(super) fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}
