//! The model's faults: each does what it says, and a seed repeats a run exactly.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;
use weft_overlay::{
    claims::*,
    keys::{Key, KeyRange, Keyspace},
    model::{EndpointRecord, LiveRecord},
    store::{
        ListRequest, Store as _, StoreError, Watch, WatchItem, WatchRequest, carry_out,
        memory::{Commit, Faults, MemoryStore, Partition},
    },
    txn::{Op, Txn},
};

use crate::{
    outcome,
    rig::{Rig, create, endpoint, endpoint_key},
};

fn put(key: &str) -> Txn {
    Txn { then: vec![Op::put(key.as_bytes().to_vec(), Vec::new())], ..Txn::default() }
}

fn everything() -> KeyRange {
    KeyRange::prefix("/")
}

async fn watch(store: &MemoryStore, from: i64) -> Watch {
    store.watch(WatchRequest { range: everything(), from }).await.unwrap()
}

async fn next(watch: &mut Watch) -> WatchItem {
    tokio::time::timeout(Duration::from_secs(300), watch.next()).await.expect("something comes")
}

fn count(store: &MemoryStore) -> usize {
    store.read_now(&everything()).len()
}

#[tokio::test(start_paused = true)]
async fn a_lost_request_does_nothing_and_a_lost_reply_hides_what_was_done() {
    let lost_request = MemoryStore::new(Faults { lost_request: 1.0, ..Faults::none() });
    let lost_reply = MemoryStore::new(Faults { lost_reply: 1.0, ..Faults::none() });
    let begun = Instant::now();

    for store in [&lost_request, &lost_reply] {
        let error = store.client("a").txn(put("/k")).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    }

    assert_eq!(begun.elapsed(), 2 * Faults::none().deadline);
    assert_eq!((count(&lost_request), count(&lost_reply)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_client_is_cut_off_alone_and_one_way_or_both() {
    let store = MemoryStore::new(Faults::none());
    let (cut, other) = (store.client("cut"), store.client("other"));

    for (partition, key) in
        [(Partition::Both, "/both"), (Partition::Requests, "/requests"), (Partition::Replies, "/replies")]
    {
        store.client("cut").cut(partition);
        assert!(cut.txn(put(key)).await.unwrap_err().is_transient());
        other.txn(put("/other")).await.unwrap();
    }
    store.client("cut").cut(Partition::None);
    cut.txn(put("/healed")).await.unwrap();

    let keys: Vec<_> = store.read_now(&everything()).into_iter().map(|kv| String::from_utf8(kv.key).unwrap()).collect();
    assert_eq!(keys, ["/healed", "/other", "/replies"]);
    let makers: Vec<_> = store.commits().into_iter().map(|commit| commit.client.unwrap()).collect();
    assert_eq!(makers, ["other", "other", "cut", "other", "cut"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_survives_a_short_cut_and_closes_in_a_long_one() {
    let store = MemoryStore::new(Faults::none());
    let client = store.client("a");
    let mut watch = watch(&client, 1).await;

    client.cut(Partition::Both);
    store.txn(put("/k")).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(10), watch.next()).await.is_err(), "an event crossed the cut");
    client.cut(Partition::None);
    outcome!(next(&mut watch).await, WatchItem::Events { events, .. } => assert_eq!(events[0].key(), b"/k"));
    client.cut(Partition::Replies);
    let begun = Instant::now();

    outcome!(next(&mut watch).await, WatchItem::Closed { .. });
    assert_eq!(begun.elapsed(), Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn watches_close_are_late_and_are_overtaken_by_compaction() {
    let store = MemoryStore::new(Faults::none());
    let mut ordered = watch(&store.client("a"), 1).await;
    store.client("a").close_watches();
    outcome!(next(&mut ordered).await, WatchItem::Closed { .. });

    let closing = MemoryStore::new(Faults { watch_closed: 1.0, ..Faults::none() });
    let mut closed = watch(&closing.client("a"), 1).await;
    closing.txn(put("/k")).await.unwrap();
    outcome!(next(&mut closed).await, WatchItem::Closed { .. });

    let late = Faults { watch_delayed: 1.0, watch_delay: Duration::from_secs(60), seed: 7, ..Faults::none() };
    let late = MemoryStore::new(late);
    let mut delayed = watch(&late.client("a"), 1).await;
    let begun = Instant::now();
    late.txn(put("/k")).await.unwrap();
    outcome!(next(&mut delayed).await, WatchItem::Events { .. });
    assert!(begun.elapsed() > Duration::ZERO);

    let compacting = MemoryStore::new(Faults { compaction: 1.0, ..Faults::none() });
    for _ in 0..3 {
        compacting.client("b").txn(put("/k")).await.unwrap();
    }
    let mut behind = watch(&compacting.client("a"), 2).await;
    outcome!(next(&mut behind).await, WatchItem::Compacted { revision } => assert_eq!(revision, 4));
}

#[tokio::test(start_paused = true)]
async fn leases_end_early_by_order_and_by_chance() {
    let store = MemoryStore::new(Faults { lease_expiry: 1.0, ..Faults::none() });
    let (a, b) = (store.client("a"), store.client("b"));
    let (first, second) =
        (a.grant(Duration::from_secs(60)).await.unwrap(), b.grant(Duration::from_secs(60)).await.unwrap());
    for (key, lease) in [("/a", first.id), ("/b", second.id)] {
        let then = vec![Op::Put { key: key.as_bytes().to_vec(), value: Vec::new(), lease: Some(lease) }];
        store.txn(Txn { then, ..Txn::default() }).await.unwrap();
    }

    store.expire_lease(first.id);
    assert_eq!(count(&store), 1);
    assert!(b.keep_alive(second.id).await.unwrap().is_zero());

    assert_eq!(count(&store), 0);
    assert_eq!(store.commits().last().unwrap().client, None);
}

#[tokio::test(start_paused = true)]
async fn idle_watches_report_progress_where_asked() {
    let store = MemoryStore::new(Faults { progress: Some(Duration::from_secs(1)), ..Faults::none() });
    store.txn(put("/k")).await.unwrap();
    let mut idle = watch(&store, 3).await;

    outcome!(next(&mut idle).await, WatchItem::Progress { revision } => assert_eq!(revision, 2));
}

#[tokio::test(start_paused = true)]
async fn observers_see_every_commit_once_and_before_the_reply() {
    let store = MemoryStore::new(Faults::none());
    store.txn(put("/before")).await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    store.on_revision(move |commit| log.lock().unwrap().push(commit.revision));

    for n in 0..3 {
        let revision = store.client("a").txn(put(&format!("/{n}"))).await.unwrap().revision;
        assert_eq!(seen.lock().unwrap().last(), Some(&revision));
    }

    assert_eq!(*seen.lock().unwrap(), [2, 3, 4, 5]);
}

/// Three clients under a bad day's faults; what they saw, and what the store then held.
async fn bad_day(seed: u64) -> (Vec<String>, Vec<Commit>) {
    let store = MemoryStore::new(Faults::harsh(seed));
    let log = Arc::new(Mutex::new(Vec::new()));
    let origin = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for name in ["a", "b", "c"] {
        let (client, log) = (store.client(name), Arc::clone(&log));
        tasks.spawn(async move {
            let note = |what: String| log.lock().unwrap().push(format!("{:?} {name}: {what}", origin.elapsed()));
            let lease = client.grant(Duration::from_secs(5)).await;
            let mut watch = client.watch(WatchRequest { range: everything(), from: 1 }).await.ok();
            for n in 0..60 {
                note(format!("{:?}", client.txn(put(&format!("/{}", n % 7))).await));
                if let Some(watch) = &mut watch {
                    note(format!("{:?}", tokio::time::timeout(Duration::from_millis(20), watch.next()).await));
                }
                if let Ok(lease) = &lease {
                    note(format!("{:?}", client.keep_alive(lease.id).await));
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let log = std::mem::take(&mut *log.lock().unwrap());
    (log, store.commits())
}

#[test]
fn a_seed_repeats_a_run_exactly_and_another_one_differs() {
    let run = |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(bad_day(seed))
    };

    let (first, second, other) = (run(1), run(1), run(2));

    assert_eq!(first.0.len(), second.0.len());
    for (one, two) in first.0.iter().zip(&second.0) {
        assert_eq!(one, two);
    }
    assert_eq!(first.1, second.1);
    assert_ne!(first.0, other.0);
}

#[tokio::test(start_paused = true)]
async fn repeating_a_creation_whose_answer_was_lost_ends_with_exactly_one_endpoint() {
    for seed in 0..200 {
        let faults = Faults { lost_request: 0.3, lost_reply: 0.4, compaction: 0.2, ..Faults::harsh(seed) };
        let rig = Rig::on_model_with("repeat", faults);
        let node = rig.node(1).await;
        let network = rig.network(1).await;
        let client = rig.store.client("agent");
        let claim = create(&node, &network, endpoint(&node, 17));

        let created = loop {
            match carry_out(&client, &rig.keys, &claim).await {
                Ok(outcome) => break outcome,
                Err(error) => assert!(format!("{error:?}").contains("Unavailable"), "{error:?}"),
            }
        };

        outcome!(created, EndpointCreated::Created(_) | EndpointCreated::AlreadyOurs(_));
        let stored: Stored<EndpointRecord> = rig.stored(&endpoint_key(&network, 17)).await.unwrap();
        assert_eq!(stored.record, endpoint(&node, 17));
        assert_eq!(rig.list(rig.keys.endpoint_index(node.token.node)).await.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_lease_the_store_lost_rejoins_with_its_token() {
    let rig = Rig::on_model("rejoin");
    let node = rig.node(1).await;
    rig.store.expire_lease(node.lease);
    let lease = rig.lease(30).await;
    let claim = Rejoin { token: node.token, boot_id: "boot".to_owned(), version: "0.1.0".to_owned(), lease };

    assert_eq!(rig.perform(&claim).await, NodeRejoined::Alive);

    let live: Stored<LiveRecord> = rig.stored(&Key::Live(node.token.node)).await.unwrap();
    assert_eq!((live.lease, live.record.epoch), (lease, 1));
    let page = ListRequest { range: Keyspace::under("/rejoin").lives(), limit: 0, revision: 0, linearizable: false };
    assert_eq!(rig.store.list(page).await.unwrap().kvs.len(), 1);
}
