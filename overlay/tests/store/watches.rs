//! Watches, pages and leases: the order of events, from any revision that is kept, in every range.

use std::time::Duration;

use tokio::time::timeout;
use weft_overlay::{
    keys::{KeyRange, Keyspace},
    store::{Event, ListRequest, StoreError, Watch, WatchItem, WatchRequest, list_all},
    txn::{Op, Revision, Txn},
};

use crate::{
    on_both_stores, outcome,
    rig::{Rig, TestStore},
};

on_both_stores! {
    a_watch_from_the_past_delivers_whole_revisions_in_order_and_goes_on_with_the_present,
    a_watch_resumes_after_the_last_event_of_another,
    a_watch_sees_its_range_only,
    the_end_of_a_lease_deletes_its_keys_in_one_revision,
    a_key_follows_its_latest_lease,
    pages_show_one_revision_while_writes_go_on,
    a_lease_lives_while_it_is_kept_alive,
}

#[tokio::test(start_paused = true)]
async fn compacted_history_ends_watches_and_old_lists_on_the_model() {
    compacted_history_ends_watches_and_old_lists(Rig::on_model("compaction")).await;
}

#[tokio::test]
async fn compacted_history_ends_watches_and_old_lists_on_etcd() {
    compacted_history_ends_watches_and_old_lists(Rig::on_own_etcd("compaction").await).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_a_future_revision_begins_there_on_the_model() {
    a_watch_from_a_future_revision_begins_there(Rig::on_model("future")).await;
}

#[tokio::test]
async fn a_watch_from_a_future_revision_begins_there_on_etcd() {
    a_watch_from_a_future_revision_begins_there(Rig::on_own_etcd("future").await).await;
}

/// Writes these keys in one transaction.
async fn put<S: TestStore>(rig: &Rig<S>, keys: &[&str]) -> Revision {
    let then = keys.iter().map(|key| Op::put(path(&rig.keys, key), b"{}".to_vec())).collect();
    rig.store.txn(Txn { then, ..Txn::default() }).await.unwrap().revision
}

fn path(keys: &Keyspace, key: &str) -> Vec<u8> {
    [keys.all().start.as_slice(), key.as_bytes()].concat()
}

async fn watch<S: TestStore>(rig: &Rig<S>, range: KeyRange, from: Revision) -> Watch {
    rig.store.watch(WatchRequest { range, from }).await.unwrap()
}

/// The next events, until there are so many; progress reports do not count.
pub(crate) async fn events(watch: &mut Watch, count: usize) -> Vec<Event> {
    let mut seen = Vec::new();
    while seen.len() < count {
        match timeout(Duration::from_secs(60), watch.next()).await {
            Ok(WatchItem::Events { events, .. }) => seen.extend(events),
            Ok(WatchItem::Progress { .. }) => {}
            other => panic!("{other:?} came after {} of {count} events", seen.len()),
        }
    }
    seen
}

fn shown<S>(rig: &Rig<S>, events: &[Event]) -> Vec<(Revision, String)> {
    let prefix = rig.keys.all().start.len();
    let text = |event: &Event| {
        let name = String::from_utf8_lossy(&event.key()[prefix..]).into_owned();
        if matches!(event, Event::Delete { .. }) { format!("-{name}") } else { name }
    };
    events.iter().map(|event| (event.revision(), text(event))).collect()
}

async fn a_watch_from_the_past_delivers_whole_revisions_in_order_and_goes_on_with_the_present<S: TestStore>(
    rig: Rig<S>,
) {
    let first = put(&rig, &["b", "a"]).await;
    let second = put(&rig, &["c"]).await;
    let delete = Txn { then: vec![Op::DeleteRange(rig.keys.all())], ..Txn::default() };
    let third = rig.store.txn(delete).await.unwrap().revision;

    let mut watch = watch(&rig, rig.keys.all(), first).await;
    let past = events(&mut watch, 6).await;
    let fourth = put(&rig, &["d"]).await;
    let present = events(&mut watch, 1).await;

    let expected = [(first, "b"), (first, "a"), (second, "c"), (third, "-a"), (third, "-b"), (third, "-c")];
    assert_eq!(shown(&rig, &past), expected.map(|(revision, key)| (revision, key.to_owned())));
    assert_eq!(shown(&rig, &present), [(fourth, "d".to_owned())]);
}

async fn a_watch_resumes_after_the_last_event_of_another<S: TestStore>(rig: Rig<S>) {
    let start = put(&rig, &["k0"]).await;
    let mut first = watch(&rig, rig.keys.all(), start).await;
    for n in 1..20 {
        put(&rig, &[&format!("k{n}")]).await;
    }
    let mut seen = events(&mut first, 5).await;
    drop(first);
    put(&rig, &["k20"]).await;

    let mut second = watch(&rig, rig.keys.all(), seen.last().unwrap().revision() + 1).await;
    let rest = events(&mut second, 21 - seen.len()).await;
    seen.extend(rest);

    let keys: Vec<_> = shown(&rig, &seen).into_iter().map(|(_, key)| key).collect();
    assert_eq!(keys, (0..=20).map(|n| format!("k{n}")).collect::<Vec<_>>());
}

async fn a_watch_sees_its_range_only<S: TestStore>(rig: Rig<S>) {
    let from = put(&rig, &["start"]).await;
    let range = KeyRange::prefix(path(&rig.keys, "net/1/"));
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(watch(&rig, range.clone(), from).await);
    }

    put(&rig, &["net/1", "net/10/x", "net/0/x", "net/2/x", "net/1/a"]).await;
    put(&rig, &["net/1/b"]).await;

    for watch in &mut watches {
        let keys: Vec<_> = shown(&rig, &events(watch, 2).await).into_iter().map(|(_, key)| key).collect();
        assert_eq!(keys, ["net/1/a", "net/1/b"]);
    }
}

async fn a_watch_from_a_future_revision_begins_there<S: TestStore>(rig: Rig<S>) {
    let now = put(&rig, &["a"]).await;

    let mut watch = watch(&rig, rig.keys.all(), now + 3).await;
    for key in ["b", "c", "d"] {
        put(&rig, &[key]).await;
    }

    assert_eq!(shown(&rig, &events(&mut watch, 1).await), [(now + 3, "d".to_owned())]);
}

async fn the_end_of_a_lease_deletes_its_keys_in_one_revision<S: TestStore>(rig: Rig<S>) {
    let lease = rig.lease(5).await;
    let leased = |key: &str| Op::Put { key: path(&rig.keys, key), value: Vec::new(), lease: Some(lease) };
    let then = vec![leased("b"), leased("a"), Op::put(path(&rig.keys, "stays"), Vec::new())];
    let from = rig.store.txn(Txn { then, ..Txn::default() }).await.unwrap().revision + 1;

    let mut watch = watch(&rig, rig.keys.all(), from).await;
    let ended = events(&mut watch, 2).await;

    let revision = ended[0].revision();
    assert_eq!(shown(&rig, &ended), [(revision, "-a".to_owned()), (revision, "-b".to_owned())]);
    assert!(rig.store.time_to_live(lease).await.unwrap().is_zero());
    rig.store.revoke(lease).await.unwrap();
}

async fn a_key_follows_its_latest_lease<S: TestStore>(rig: Rig<S>) {
    let (old, new) = (rig.lease(600).await, rig.lease(600).await);
    let put = |lease| Op::Put { key: path(&rig.keys, "k"), value: Vec::new(), lease };
    rig.store.txn(Txn { then: vec![put(Some(old))], ..Txn::default() }).await.unwrap();

    rig.store.txn(Txn { then: vec![put(Some(new))], ..Txn::default() }).await.unwrap();
    rig.store.revoke(old).await.unwrap();
    assert_eq!(rig.list(rig.keys.all()).await[0].lease, new);
    rig.store.txn(Txn { then: vec![put(None)], ..Txn::default() }).await.unwrap();
    rig.store.revoke(new).await.unwrap();

    assert_eq!(rig.list(rig.keys.all()).await[0].lease, 0);
}

async fn pages_show_one_revision_while_writes_go_on<S: TestStore>(rig: Rig<S>) {
    for hundred in 0..25 {
        let names: Vec<_> = (0..100).map(|n| format!("{hundred:02}{n:02}")).collect();
        put(&rig, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let range = rig.keys.all();

    let first =
        rig.store.list(ListRequest { range: range.clone(), limit: 1000, revision: 0, linearizable: true }).await;
    let first = first.unwrap();
    put(&rig, &["2499x"]).await;
    let start = [first.kvs.last().unwrap().key.as_slice(), &[0]].concat();
    let rest = KeyRange { start, end: range.end.clone() };
    let rest = ListRequest { range: rest, limit: 0, revision: first.revision, linearizable: false };
    let rest = rig.store.list(rest).await.unwrap();
    let all = list_all(&rig.store, range, true).await.unwrap();

    assert_eq!((first.kvs.len(), first.more), (1000, true));
    assert_eq!((rest.kvs.len(), rest.more), (1500, false));
    assert_eq!((all.kvs.len(), all.more), (2501, false));
    assert_ne!(first.cluster_id, 0);
}

async fn a_lease_lives_while_it_is_kept_alive<S: TestStore>(rig: Rig<S>) {
    let shortest = rig.store.grant(Duration::from_millis(1)).await.unwrap();
    assert_eq!(shortest.ttl, Duration::from_secs(2));
    let lease = rig.store.grant(Duration::from_millis(4500)).await.unwrap();
    assert_eq!(lease.ttl, Duration::from_secs(5));
    let other = rig.lease(600).await;
    for _ in 0..13 {
        assert_eq!(rig.store.keep_alive(lease.id).await.unwrap(), lease.ttl);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(rig.store.keep_alive(other).await.unwrap(), Duration::from_secs(600));
    assert!(!rig.store.time_to_live(lease.id).await.unwrap().is_zero());

    rig.store.revoke(lease.id).await.unwrap();

    assert!(rig.store.keep_alive(lease.id).await.unwrap().is_zero());
    assert!(rig.store.time_to_live(lease.id).await.unwrap().is_zero());
    assert_eq!(rig.store.keep_alive(other).await.unwrap(), Duration::from_secs(600));
}

async fn compacted_history_ends_watches_and_old_lists<S: TestStore>(rig: Rig<S>) {
    let first = put(&rig, &["a"]).await;
    let second = put(&rig, &["b"]).await;
    let third = put(&rig, &["c"]).await;
    let range = rig.keys.all();
    let at = |revision| ListRequest { range: range.clone(), limit: 0, revision, linearizable: true };
    let mut running = watch(&rig, range.clone(), third).await;
    assert_eq!(events(&mut running, 1).await.len(), 1);

    assert!(rig.store.try_compact(second).await);

    let error = rig.store.list(at(first)).await.unwrap_err();
    assert!(matches!(error, StoreError::Compacted { revision } if revision == first), "{error:?}");
    assert_eq!(rig.store.list(at(second)).await.unwrap().kvs.len(), 2);
    assert!(rig.store.list(at(third + 10)).await.unwrap_err().is_transient());
    let mut late = watch(&rig, range.clone(), first).await;
    outcome!(late.next().await, WatchItem::Compacted { revision } => assert_eq!(revision, second));
    outcome!(late.next().await, WatchItem::Closed { .. });
    let mut resumed = watch(&rig, range, second + 1).await;
    assert_eq!(shown(&rig, &events(&mut resumed, 1).await), [(third, "c".to_owned())]);
    put(&rig, &["d"]).await;
    assert_eq!(events(&mut running, 1).await.len(), 1);
}
