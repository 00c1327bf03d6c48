//! Single behaviours that clients depend on, each against etcd and against the embedded store.

use std::time::Duration;

use etcd_client::{Client, Error, LeaseGrantOptions, PutOptions, WatchFilterType, WatchOptions, WatchStream};

use crate::{
    operations::{Condition, Delete, Get, Operand, Operation, Put, Transaction, carry_out},
    servers::{Ours, Server},
};

/// Runs a check against both stores, each empty.
async fn on_both(check: impl AsyncFn(&mut Client)) {
    let (etcd, ours) = (Server::etcd(), Ours::start().await);
    check(&mut ours.client().await).await;
    check(&mut etcd.client().await).await;
}

fn put(key: &str, value: &str) -> Operation {
    Operation::Put(plain_put(key, value))
}

fn plain_put(key: &str, value: &str) -> Put {
    Put { key: key.into(), value: value.into(), lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false }
}

fn plain_get(key: &str) -> Get {
    let (end, bounds) = (Vec::new(), [0; 4]);
    Get { key: key.into(), end, limit: 0, revision: 0, sort: None, keys_only: false, count_only: false, bounds }
}

fn get_at(key: &str, revision: i64) -> Operation {
    Operation::Get(Get { revision, ..plain_get(key) })
}

async fn says(client: &mut Client, operation: Operation, expected: &str) {
    let answer = carry_out(client, &operation).await;
    assert!(answer.contains(expected), "{operation:?}: {answer}, not {expected}");
}

#[tokio::test]
async fn a_fresh_store_is_at_revision_one() {
    on_both(async |client| {
        says(client, get_at("a", 0), "revision: 1,").await;
        says(client, get_at("a", 2), "OutOfRange: etcdserver: mvcc: required revision is a future revision").await;
    })
    .await;
}

#[tokio::test]
async fn compaction_ends_history_before_its_revision() {
    on_both(async |client| {
        for value in ["1", "2", "3"] {
            says(client, put("a", value), "PutResponse").await;
        }
        says(client, Operation::Compact(3), "revision: 4").await;

        says(client, get_at("a", 2), "OutOfRange: etcdserver: mvcc: required revision has been compacted").await;
        says(client, get_at("a", 3), "mod_revision: 3").await;
        says(client, Operation::Compact(3), "required revision has been compacted").await;
        says(client, Operation::Compact(5), "required revision is a future revision").await;
    })
    .await;
}

#[tokio::test]
async fn malformed_requests_are_refused_in_etcds_words() {
    on_both(async |client| {
        let twice = Transaction { then: vec![put("a", "1"), put("a", "2")], ..Transaction::default() };
        says(client, Operation::Txn(twice), "InvalidArgument: etcdserver: duplicate key given in txn request").await;
        says(client, put("", "1"), "InvalidArgument: etcdserver: key is not provided").await;
        let many = (0..129).map(|n| put(&n.to_string(), "1")).collect();
        let many = Transaction { then: many, ..Transaction::default() };
        says(client, Operation::Txn(many), "InvalidArgument: etcdserver: too many operations in txn request").await;
        let most = (0..128).map(|n| put(&n.to_string(), "1")).collect();
        says(client, Operation::Txn(Transaction { then: most, ..Transaction::default() }), "succeeded: true").await;
        let large = Put { value: vec![b'x'; 1_600_000], ..plain_put("a", "") };
        says(client, Operation::Put(large), "InvalidArgument: etcdserver: request is too large").await;
    })
    .await;
}

#[tokio::test]
async fn a_transaction_with_an_unknown_lease_does_nothing() {
    on_both(async |client| {
        let leased = Operation::Put(Put { lease: 77, ..plain_put("b", "2") });
        let txn = Transaction { then: vec![put("a", "1"), leased], ..Transaction::default() };

        says(client, Operation::Txn(txn), "NotFound: etcdserver: requested lease not found").await;
        says(client, get_at("a", 0), "revision: 1, raft_term: 0 }), kvs: []").await;
    })
    .await;
}

#[tokio::test]
async fn unknown_leases_are_told_apart() {
    on_both(async |client| {
        says(client, Operation::TimeToLive(7), "ttl: -1, granted_ttl: 0").await;
        says(client, Operation::KeepAlive(7), "lease not found").await;
        says(client, Operation::Revoke(7), "NotFound: etcdserver: requested lease not found").await;
        says(client, Operation::Grant(7, 1), "id: 7, ttl: 2").await;
        says(client, Operation::Grant(7, 60), "FailedPrecondition: etcdserver: lease already exists").await;
    })
    .await;
}

#[tokio::test]
async fn a_key_hangs_on_its_last_lease_only() {
    on_both(async |client| {
        for lease in [1, 2] {
            says(client, Operation::Grant(lease, 600), "ttl: 600").await;
        }
        for (key, lease) in [("a", 1), ("a", 2), ("b", 1), ("b", 0)] {
            says(client, Operation::Put(Put { lease, ..plain_put(key, "1") }), "PutResponse").await;
        }
        says(client, Operation::Revoke(1), "revision: 5").await;

        says(client, get_at("a", 0), "lease: 2").await;
        says(client, get_at("b", 0), "count: 1").await;
        says(client, Operation::Revoke(2), "revision: 6").await;
        says(client, get_at("a", 0), "count: 0").await;
    })
    .await;
}

#[tokio::test]
async fn the_end_of_a_lease_is_one_revision_and_one_message_in_the_order_of_keys() {
    on_both(async |client| assert_eq!(check_revoke(client).await, Ok(()))).await;
}

/// Keys of a revoked lease go together.
pub(crate) async fn check_revoke(client: &mut Client) -> Result<(), String> {
    let lease = LeaseGrantOptions::new().with_id(1);
    client.lease_grant(600, Some(lease)).await.map_err(|error| error.to_string())?;
    for key in ["k3", "k1", "k2"] {
        client.put(key, "1", Some(PutOptions::new().with_lease(1))).await.map_err(|error| error.to_string())?;
    }
    let mut stream = client.watch("k", Some(WatchOptions::new().with_prefix())).await.unwrap();
    next(&mut stream).await;
    client.lease_revoke(1).await.map_err(|error| error.to_string())?;

    let message = next(&mut stream).await.0;
    let events = message.events.iter().map(|event| event.kv.as_ref().unwrap());
    let seen: Vec<_> = events.map(|kv| (String::from_utf8_lossy(&kv.key).into_owned(), kv.mod_revision)).collect();
    let expected = ["k1", "k2", "k3"].map(|key| (key.to_owned(), 5)).to_vec();
    if seen == expected { Ok(()) } else { Err(format!("{seen:?}")) }
}

async fn next(stream: &mut WatchStream) -> etcd_client::WatchResponse {
    let message = tokio::time::timeout(Duration::from_secs(10), stream.message());
    message.await.expect("a watch speaks within 10 s").unwrap().expect("the watch goes on")
}

#[tokio::test]
async fn a_value_that_is_not_there_equals_nothing_and_differs_from_nothing() {
    on_both(async |client| {
        for how in [0, 3] {
            let operand = Operand::Value(b"x".to_vec());
            let condition = Condition { key: b"missing".to_vec(), end: Vec::new(), how, operand };
            let txn = Transaction { conditions: vec![condition], ..Transaction::default() };
            says(client, Operation::Txn(txn), "succeeded: false").await;
        }
        let empty = Condition { key: b"m".to_vec(), end: b"n".to_vec(), how: 0, operand: Operand::Create(0) };
        let txn = Transaction { conditions: vec![empty], ..Transaction::default() };
        says(client, Operation::Txn(txn), "succeeded: true").await;
    })
    .await;
}

#[tokio::test]
async fn what_changes_nothing_advances_nothing() {
    on_both(async |client| {
        let nothing = Delete { key: b"a".to_vec(), end: Vec::new(), prev_kv: true };
        says(client, Operation::Delete(nothing), "revision: 1, raft_term: 0 }), deleted: 0").await;
    })
    .await;
}

#[tokio::test]
async fn reads_in_a_transaction_see_its_earlier_writes() {
    on_both(async |client| {
        let range = Get { end: b"\0".to_vec(), limit: 1, ..plain_get("a") };
        let then = vec![put("a", "1"), put("b", "2"), Operation::Get(range)];
        let answer = carry_out(client, &Operation::Txn(Transaction { then, ..Transaction::default() })).await;

        assert!(answer.contains("revision: 2, raft_term: 0 }), kvs: [KeyValue { key: [97]"), "{answer}");
        assert!(answer.contains("more: true, count: 2"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn a_watch_from_the_future_begins_there() {
    on_both(async |client| {
        let mut stream = client.watch("a", Some(WatchOptions::new().with_start_revision(4))).await.unwrap();
        let created = next(&mut stream).await;
        assert!(created.created() && created.header().unwrap().revision() == 1, "{created:?}");
        for value in ["1", "2", "3"] {
            says(client, put("a", value), "PutResponse").await;
        }

        let first = next(&mut stream).await;
        assert_eq!(first.0.events[0].kv.as_ref().unwrap().mod_revision, 4);
    })
    .await;
}

#[tokio::test]
async fn a_watch_from_what_was_compacted_is_canceled_with_the_revision() {
    on_both(async |client| {
        for value in ["1", "2", "3"] {
            says(client, put("a", value), "PutResponse").await;
        }
        says(client, Operation::Compact(4), "CompactionResponse").await;
        let mut stream = client.watch("a", Some(WatchOptions::new().with_start_revision(2))).await.unwrap();

        let created = next(&mut stream).await.0;
        let canceled = next(&mut stream).await.0;
        assert_eq!((created.created, created.canceled), (true, false));
        assert_eq!((canceled.canceled, canceled.compact_revision, canceled.cancel_reason.as_str()), (true, 4, ""));
    })
    .await;
}

#[tokio::test]
async fn watches_filter_and_are_canceled_by_their_ids() {
    on_both(async |client| {
        let options = WatchOptions::new().with_watch_id(5).with_filters([WatchFilterType::NoPut]).with_prev_key();
        let mut stream = client.watch("a", Some(options)).await.unwrap();
        assert_eq!(next(&mut stream).await.watch_id(), 5);
        says(client, put("a", "1"), "PutResponse").await;
        client.delete("a", None).await.unwrap();

        let deleted = next(&mut stream).await.0;
        assert_eq!(deleted.events.len(), 1);
        assert_eq!(deleted.events[0].prev_kv.as_ref().unwrap().value, b"1");
        stream.cancel(5).await.unwrap();
        assert!(next(&mut stream).await.canceled());
    })
    .await;
}

#[tokio::test]
async fn a_range_that_no_key_is_in_cannot_be_watched() {
    on_both(async |client| {
        let mut stream = client.watch("b", Some(WatchOptions::new().with_range("a"))).await.unwrap();

        let refused = next(&mut stream).await.0;
        assert_eq!((refused.watch_id, refused.created, refused.canceled), (-1, true, true));
        assert_eq!(refused.cancel_reason, "mvcc: watcher range is empty");
    })
    .await;
}

#[tokio::test]
async fn what_is_not_there_is_refused_with_a_sentence() {
    let ours = Ours::start().await;
    let mut client = ours.client().await;

    let refusals = [
        client.user_list().await.err(),
        client.snapshot().await.err(),
        client.move_leader(1).await.err(),
        client.member_remove(1).await.err(),
        client.lock("a", None).await.err(),
        client.leader("a").await.err(),
    ];
    for refusal in refusals {
        let Some(Error::GRpcStatus(status)) = refusal else { panic!("{refusal:?}") };
        assert_eq!(status.code(), tonic::Code::Unimplemented);
        assert!(status.message().starts_with("this store "), "{status:?}");
    }
}
