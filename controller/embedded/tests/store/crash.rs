//! Death at any moment: what was acknowledged is there, what was not is there wholly or not at all, the revision never
//! goes back, watchers go on without a gap or a repetition, and leases live.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use etcd_client::{Client, GetOptions, LeaseGrantOptions, Txn, TxnOp, WatchOptions};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::servers::{Server, scratch};

const WRITERS: u64 = 8;
const WATCHERS: usize = 8;
const LEASE: i64 = 99;
const TTL: i64 = 600;

/// What clients know across deaths of the server.
#[derive(Debug, Default)]
struct Known {
    /// The greatest revision that anybody was told.
    revision: AtomicI64,
    /// Acknowledged pairs of keys, by their name, and when.
    acknowledged: Mutex<BTreeMap<String, i64>>,
}

impl Known {
    fn told(&self, revision: i64) {
        self.revision.fetch_max(revision, Ordering::SeqCst);
    }
}

/// What a watcher has seen: where it goes on, and each key with its revision.
#[derive(Debug, Default)]
struct Seen {
    next: i64,
    keys: BTreeMap<String, i64>,
    wrong: Option<String>,
}

/// Kills the server so many times, each time in the middle of its work; `faults` are put into some of its lives.
async fn check(directory: &Path, kills: u64, faults: &[&str]) -> Result<usize, String> {
    let known = Arc::new(Known::default());
    let watchers: Vec<_> = (0..WATCHERS).map(|_| Arc::new(Mutex::new(Seen { next: 1, ..Seen::default() }))).collect();
    let mut rng = StdRng::seed_from_u64(7);
    for life in 0..kills {
        // Every other life ends at random, the others where the faults say, if they get so far.
        let fault = if life % 2 == 0 || faults.len() == 1 {
            faults.get(usize::try_from(life / 2).unwrap() % faults.len().max(1))
        } else {
            None
        };
        let mut server = Server::ours(directory, fault.copied());
        let mut tasks = Vec::new();
        let mut client = server.client().await;
        check_state(&mut client, &known, life).await?;
        for writer in 0..WRITERS {
            tasks.push(tokio::spawn(write(client.clone(), life, writer, Arc::clone(&known))));
        }
        tasks.push(tokio::spawn(read(client.clone(), Arc::clone(&known))));
        for seen in &watchers {
            tasks.push(tokio::spawn(watch(client.clone(), Arc::clone(seen), Arc::clone(&known))));
        }
        let oldest = watchers.iter().map(|seen| seen.lock().unwrap().next).min().unwrap_or(1) - 1;
        if oldest > 1 && life % 3 == 0 {
            let mut client = client.clone();
            tasks.push(tokio::spawn(async move { drop(client.compact(oldest, None).await) }));
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(5..70))).await;
        server.kill();
        for task in tasks {
            task.await.map_err(|error| error.to_string())?;
        }
    }
    let server = Server::ours(directory, None);
    let mut client = server.client().await;
    check_state(&mut client, &known, kills).await?;
    check_watchers(&mut client, &watchers, &known).await?;
    Ok(known.acknowledged.lock().unwrap().len())
}

/// After each start: the revision, the keys of the life before, and the lease.
async fn check_state(client: &mut Client, known: &Known, life: u64) -> Result<(), String> {
    let prefix = format!("l{:05}/", life.saturating_sub(1));
    let got =
        client.get(prefix.clone(), Some(GetOptions::new().with_prefix())).await.map_err(|error| error.to_string())?;
    let (revision, told) = (got.header().unwrap().revision(), known.revision.load(Ordering::SeqCst));
    if revision < told {
        return Err(format!("revision {revision} after somebody was told {told}"));
    }
    let mut pairs: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for kv in got.kvs() {
        let key = kv.key_str().unwrap();
        pairs.entry(key[..key.len() - 2].to_owned()).or_default().push(kv.mod_revision());
    }
    if let Some(half) = pairs.iter().find(|(_, revisions)| revisions.len() != 2 || revisions[0] != revisions[1]) {
        return Err(format!("half a transaction: {half:?}"));
    }
    let acknowledged = known.acknowledged.lock().unwrap().clone();
    for (name, at) in acknowledged.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix)) {
        if pairs.get(name) != Some(&vec![*at, *at]) {
            return Err(format!("{name} was acknowledged at {at}, and is {:?}", pairs.get(name)));
        }
    }
    if life == 0 {
        client
            .lease_grant(TTL, Some(LeaseGrantOptions::new().with_id(LEASE)))
            .await
            .map_err(|error| error.to_string())?;
        return Ok(());
    }
    let left = client.lease_time_to_live(LEASE, None).await.map_err(|error| error.to_string())?.ttl();
    // A fault at the first write may have taken the grant before it was acknowledged.
    if left < TTL - 10 { Err(format!("{left} s are left of a lease of {TTL} s after a start")) } else { Ok(()) }
}

async fn write(mut client: Client, life: u64, writer: u64, known: Arc<Known>) {
    for number in 0.. {
        let name = format!("l{life:05}/{writer}/{number:05}");
        let puts = ["a", "b"].map(|half| TxnOp::put(format!("{name}/{half}"), "x", None));
        let Ok(done) = client.txn(Txn::new().and_then(puts)).await else { return };
        let revision = done.header().unwrap().revision();
        known.told(revision);
        known.acknowledged.lock().unwrap().insert(name, revision);
    }
}

async fn read(mut client: Client, known: Arc<Known>) {
    while let Ok(got) = client.get("none", None).await {
        known.told(got.header().unwrap().revision());
    }
}

async fn watch(mut client: Client, seen: Arc<Mutex<Seen>>, known: Arc<Known>) {
    let next = seen.lock().unwrap().next;
    let options = WatchOptions::new().with_prefix().with_start_revision(next);
    let Ok(mut stream) = client.watch("l", Some(options)).await else { return };
    while let Ok(Some(message)) = stream.message().await {
        let mut seen = seen.lock().unwrap();
        if message.canceled() {
            seen.wrong = Some(format!("canceled: {message:?}"));
            return;
        }
        for kv in message.0.events.iter().filter_map(|event| event.kv.as_ref()) {
            let (key, at) = (String::from_utf8(kv.key.clone()).unwrap(), kv.mod_revision);
            known.told(at);
            let repeated = seen.keys.insert(key.clone(), at).is_some();
            if repeated || at < seen.next {
                seen.wrong = Some(format!("{key} at {at} again, or late, after {}", seen.next));
            }
        }
        if let Some(last) = message.0.events.last().and_then(|event| event.kv.as_ref()) {
            seen.next = last.mod_revision + 1;
        }
    }
}

/// Each watcher, having gone on to the end, has seen every key once.
async fn check_watchers(client: &mut Client, watchers: &[Arc<Mutex<Seen>>], known: &Arc<Known>) -> Result<(), String> {
    let all = client.get("l", Some(GetOptions::new().with_prefix())).await.map_err(|error| error.to_string())?;
    let all: BTreeMap<String, i64> =
        all.kvs().iter().map(|kv| (kv.key_str().unwrap().to_owned(), kv.mod_revision())).collect();
    let last = all.values().max().copied().unwrap_or(0);
    for seen in watchers {
        let going_on = watch(client.clone(), Arc::clone(seen), Arc::clone(known));
        let caught_up = async {
            while seen.lock().unwrap().next <= last {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = going_on => {}
            () = caught_up => {}
            () = tokio::time::sleep(Duration::from_secs(10)) => return Err("a watcher does not catch up".to_owned()),
        }
        let seen = seen.lock().unwrap();
        if let Some(wrong) = &seen.wrong {
            return Err(wrong.clone());
        }
        if seen.keys != all {
            return Err(format!("a watcher saw {} keys of {}", seen.keys.len(), all.len()));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_two_hundred_kills() {
    let directory = scratch();
    let places = ["DieApplied:9", "DieSynced:7", "DieCompacted", "DieRemoving", "DieApplied:2", "DieSynced:23"];

    let acknowledged = check(directory.path(), 200, &places).await.unwrap();

    assert!(acknowledged > 1000, "only {acknowledged} writes were acknowledged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_before_the_sync_is_found() {
    let directory = scratch();

    let found = check(directory.path(), 60, &["AckBeforeSync"]).await;

    assert!(found.is_err(), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_of_what_is_not_synced_is_found() {
    let directory = scratch();

    let found = check(directory.path(), 60, &["ReadUnsynced"]).await;

    assert!(found.is_err(), "{found:?}");
}
