use std::{collections::BTreeMap, time::Duration};

use rand::{SeedableRng, rngs::StdRng};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use weft_overlay::{
    keys::KeyRange,
    store::{
        Event, Lease, ListRequest, Page, Store, StoreError, Watch, WatchRequest,
        memory::{Faults, MemoryStore, Partition},
    },
    txn::{KeyValue, Op, Revision, Txn, TxnReply},
};

use super::{FollowSettings, Snapshot, Update, follow};

#[tokio::test(start_paused = true)]
async fn begins_with_everything_and_goes_on_with_changes() {
    let store = MemoryStore::new(Faults::none());
    put(&store, "k/a", "1").await;
    let mut followed = Followed::start(store.clone());

    let first = followed.next().await;
    let changed = put(&store, "k/b", "2").await;
    put(&store, "other", "3").await;
    let deleted = delete(&store, "k/a").await;

    assert!(matches!(&first, Update::Snapshot(s) if s.kvs.len() == 1), "{first:?}");
    followed.settle(changed.max(deleted)).await;
    assert_eq!(followed.known(), [("k/b".to_owned(), "2".to_owned())].into());
}

#[tokio::test(start_paused = true)]
async fn a_closed_watch_resumes_without_a_list_and_misses_nothing() {
    let proxy = Proxy::over(MemoryStore::new(Faults::none()));
    let store = proxy.store.client("agent");
    let mut followed = Followed::start(Proxy { store: store.clone(), ..proxy.clone() });
    followed.next().await;
    for round in 0..20 {
        store.close_watches();
        put(&proxy.store, &format!("k/{round}"), "x").await;
    }

    followed.settle(proxy.store.revision()).await;

    assert_eq!(followed.known().len(), 20);
    assert_eq!(proxy.lists(), 1);
}

#[tokio::test(start_paused = true)]
async fn compaction_during_a_pause_leads_to_one_snapshot() {
    let proxy = Proxy::over(MemoryStore::new(Faults::none()));
    let store = proxy.store.client("agent");
    let mut followed = Followed::start(Proxy { store: store.clone(), ..proxy.clone() });
    followed.next().await;

    store.cut(Partition::Both);
    store.close_watches();
    for n in 0..200 {
        put(&proxy.store, &format!("k/{n:03}"), "x").await;
    }
    delete(&proxy.store, "k/000").await;
    proxy.store.compact(proxy.store.revision()).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    store.cut(Partition::None);
    followed.settle(proxy.store.revision()).await;

    assert_eq!(followed.known().len(), 199);
    assert_eq!(followed.snapshots, 2);
    assert_eq!(followed.stalls, 1, "one outage is reported once");
}

#[tokio::test(start_paused = true)]
async fn an_empty_answer_does_not_remove_what_is_known() {
    let proxy = Proxy::over(MemoryStore::new(Faults::none()));
    for n in 0..60 {
        put(&proxy.store, &format!("k/{n}"), "x").await;
    }
    let mut followed = Followed::start(proxy.clone());
    followed.next().await;

    proxy.lie(Lie::Empty, 1);
    put(&proxy.store, "other", "x").await;
    proxy.store.compact(proxy.store.revision()).unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    put(&proxy.store, "k/new", "x").await;
    followed.settle(proxy.store.revision()).await;

    assert!(proxy.lists() >= 3, "the empty answer was not checked: {} lists", proxy.lists());
    assert_eq!(followed.least, 60, "something was removed in between");
    assert_eq!(followed.known().len(), 61);
}

#[tokio::test(start_paused = true)]
async fn everything_is_removed_when_a_second_list_confirms_it() {
    let proxy = Proxy::over(MemoryStore::new(Faults::none()));
    let store = proxy.store.client("agent");
    for n in 0..60 {
        put(&proxy.store, &format!("k/{n}"), "x").await;
    }
    let mut followed = Followed::start(Proxy { store: store.clone(), ..proxy.clone() });
    followed.next().await;

    store.cut(Partition::Both);
    for n in 0..60 {
        delete(&proxy.store, &format!("k/{n}")).await;
    }
    proxy.store.compact(proxy.store.revision()).unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    store.cut(Partition::None);
    store.close_watches();
    followed.settle(proxy.store.revision()).await;

    assert!(followed.known().is_empty());
}

#[tokio::test(start_paused = true)]
async fn errors_on_every_third_request_change_nothing() {
    let proxy = Proxy::over(MemoryStore::new(Faults::none()));
    proxy.fail_every(3);
    let mut followed = Followed::start(proxy.clone());
    for n in 0..50 {
        put(&proxy.store, &format!("k/{n}"), "x").await;
        if n % 10 == 9 {
            proxy.store.compact(proxy.store.revision()).unwrap();
            proxy.store.close_watches();
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    followed.settle(proxy.store.revision()).await;

    assert_eq!(followed.known().len(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_went_back_in_time_removes_nothing_for_a_while() {
    let old = MemoryStore::new(Faults::none());
    for n in 0..10 {
        put(&old, &format!("k/{n}"), "x").await;
    }
    let proxy = Proxy::over(old);
    let mut followed = Followed::start(proxy.clone());
    followed.next().await;

    let restored = MemoryStore::new(Faults::none());
    put(&restored, "k/0", "restored").await;
    let proxy_now = proxy.replace(restored.clone());
    proxy.store.close_watches();
    let begun = tokio::time::Instant::now();
    let replaced = followed.until(|update| matches!(update, Update::Replaced(_))).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "noticed after {:?}", begun.elapsed());
    let during = followed.known();
    let after = followed.until(|update| matches!(update, Update::Snapshot(_))).await;

    assert!(matches!(&replaced, Update::Replaced(s) if s.kvs.len() == 1), "{replaced:?}");
    assert_eq!(during.len(), 10, "deleted at once");
    assert_eq!(during["k/0"], "restored");
    assert!(matches!(&after, Update::Snapshot(s) if s.kvs.len() == 1), "{after:?}");
    assert_eq!(followed.known().len(), 1);
    drop(proxy_now);
}

#[tokio::test(start_paused = true)]
async fn lists_again_now_and_then_to_find_lost_events() {
    let proxy = Proxy::over(MemoryStore::new(Faults::none()));
    let mut followed = Followed::start(proxy.clone());

    followed.next().await;
    let begun = tokio::time::Instant::now();
    followed.until(|update| matches!(update, Update::Snapshot(_))).await;

    let minutes = begun.elapsed().as_secs() / 60;
    assert!((24..=37).contains(&minutes), "{minutes} minutes");
}

#[tokio::test(start_paused = true)]
async fn ends_when_nobody_listens() {
    let store = MemoryStore::new(Faults::none());
    let Followed { updates, task, .. } = Followed::start(store);

    drop(updates);

    timeout(Duration::from_secs(5), task).await.expect("still following").unwrap();
}

/// A consumer that does what consumers are told to do.
struct Followed {
    updates: mpsc::Receiver<Update>,
    task: JoinHandle<()>,
    state: BTreeMap<Vec<u8>, KeyValue>,
    revision: Revision,
    least: usize,
    snapshots: usize,
    stalls: usize,
}

impl Followed {
    fn start<S: Store>(store: S) -> Self {
        let (updates_in, updates) = mpsc::channel(8);
        let rng = StdRng::seed_from_u64(1);
        let range = KeyRange::prefix("k/");
        let task = tokio::spawn(follow(store, range, FollowSettings::default(), rng, updates_in));
        Self { updates, task, state: BTreeMap::new(), revision: 0, least: usize::MAX, snapshots: 0, stalls: 0 }
    }

    async fn next(&mut self) -> Update {
        let update = timeout(Duration::from_secs(7200), self.updates.recv()).await.expect("nothing for two hours");
        let update = update.expect("following has ended");
        self.apply(&update);
        update
    }

    async fn until(&mut self, wanted: impl Fn(&Update) -> bool) -> Update {
        loop {
            let update = self.next().await;
            if wanted(&update) {
                return update;
            }
        }
    }

    /// Until everything up to a revision that changed the range was heard of.
    async fn settle(&mut self, revision: Revision) {
        while self.revision < revision {
            self.next().await;
        }
    }

    fn apply(&mut self, update: &Update) {
        match update {
            Update::Snapshot(Snapshot { revision, kvs, .. }) => {
                self.state = kvs.iter().map(|kv| (kv.key.clone(), kv.clone())).collect();
                (self.revision, self.snapshots) = (*revision, self.snapshots + 1);
            }
            Update::Replaced(Snapshot { kvs, .. }) => {
                self.state.extend(kvs.iter().map(|kv| (kv.key.clone(), kv.clone())));
            }
            Update::Events { revision, events } => {
                for event in events {
                    match event {
                        Event::Put(kv) => self.state.insert(kv.key.clone(), kv.clone()),
                        Event::Delete { key, .. } => self.state.remove(key),
                    };
                }
                self.revision = *revision;
            }
            Update::Progress { revision } => self.revision = *revision,
            Update::Stalled { .. } => self.stalls += 1,
            Update::Recovered => {}
        }
        self.least = self.least.min(self.state.len());
    }

    fn known(&self) -> BTreeMap<String, String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        self.state.values().map(|kv| (text(&kv.key), text(&kv.value))).collect()
    }
}

/// A store that lies and fails as it is told.
#[derive(Debug, Clone)]
struct Proxy {
    store: MemoryStore,
    shared: std::sync::Arc<std::sync::Mutex<Deceit>>,
}

#[derive(Debug, Default)]
struct Deceit {
    lists: usize,
    requests: usize,
    fail_every: usize,
    lie: Option<(Lie, usize)>,
    replacement: Option<MemoryStore>,
}

#[derive(Debug, Clone, Copy)]
enum Lie {
    Empty,
}

impl Proxy {
    fn over(store: MemoryStore) -> Self {
        Self { store, shared: Default::default() }
    }

    fn lists(&self) -> usize {
        self.shared.lock().unwrap().lists
    }

    fn lie(&self, lie: Lie, times: usize) {
        self.shared.lock().unwrap().lie = Some((lie, times));
    }

    fn fail_every(&self, k: usize) {
        self.shared.lock().unwrap().fail_every = k;
    }

    fn replace(&self, by: MemoryStore) -> Self {
        self.shared.lock().unwrap().replacement = Some(by);
        self.clone()
    }

    fn shared(&self) -> std::sync::MutexGuard<'_, Deceit> {
        self.shared.lock().unwrap()
    }

    fn target(&self) -> Result<MemoryStore, StoreError> {
        let mut shared = self.shared();
        shared.requests += 1;
        if shared.fail_every > 0 && shared.requests.is_multiple_of(shared.fail_every) {
            return Err(StoreError::Unavailable { endpoint: "proxy".to_owned(), reason: "told to fail".to_owned() });
        }
        Ok(shared.replacement.clone().unwrap_or_else(|| self.store.clone()))
    }
}

impl Store for Proxy {
    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        self.target()?.txn(txn).await
    }

    async fn list(&self, request: ListRequest) -> Result<Page, StoreError> {
        let is_glance = request.limit == 1;
        let mut page = self.target()?.list(request).await?;
        let mut shared = self.shared();
        if is_glance {
            return Ok(page);
        }
        shared.lists += 1;
        if let Some((Lie::Empty, times)) = shared.lie.as_mut()
            && *times > 0
        {
            *times -= 1;
            page.kvs.clear();
            page.more = false;
        }
        Ok(page)
    }

    async fn watch(&self, request: WatchRequest) -> Result<Watch, StoreError> {
        self.target()?.watch(request).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.target()?.grant(ttl).await
    }

    async fn keep_alive(&self, lease: i64) -> Result<Duration, StoreError> {
        self.target()?.keep_alive(lease).await
    }

    async fn time_to_live(&self, lease: i64) -> Result<Duration, StoreError> {
        self.target()?.time_to_live(lease).await
    }

    async fn revoke(&self, lease: i64) -> Result<(), StoreError> {
        self.target()?.revoke(lease).await
    }

    fn endpoint(&self) -> String {
        "proxy".to_owned()
    }
}

async fn put(store: &MemoryStore, key: &str, value: &str) -> Revision {
    write(store, Op::put(key.into(), value.into())).await
}

async fn delete(store: &MemoryStore, key: &str) -> Revision {
    write(store, Op::Delete(key.into())).await
}

async fn write(store: &MemoryStore, op: Op) -> Revision {
    store.txn(Txn { then: vec![op], ..Txn::default() }).await.unwrap().revision
}
