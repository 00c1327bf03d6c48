//! What a watch promises: only what was asked for, in order, once, never half a revision, nothing left out whatever the
//! reader's pace, going on where it was, and progress only after what it covers.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use etcd_client::{Client, GetOptions, Txn, TxnOp, WatchOptions, WatchStream, proto::PbEvent};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::servers::{Server, scratch};

const TIMEOUT: Duration = Duration::from_secs(30);
const MARK: &str = "zzz";

/// How a watcher reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// As fast as it can.
    Quick,
    /// With pauses, so that the server cannot send.
    Slow,
    /// Asks for progress all the time.
    Asking,
    /// Leaves and comes back where it was.
    Resuming,
}

/// What a watcher saw.
#[derive(Debug)]
struct Watched {
    start: String,
    events: Vec<PbEvent>,
}

/// Writes for a while under the eyes of watchers of every kind, and compares what they saw with the full history.
pub(crate) async fn check(server: &Server, writes: u32) -> Result<usize, String> {
    let mut client = server.client().await;
    let mut watchers = Vec::new();
    let starts = ["a", "c"];
    for reader in [Reader::Quick, Reader::Slow, Reader::Asking, Reader::Resuming] {
        for start in starts {
            watchers.push(tokio::spawn(watch(server.client().await, start.to_owned(), reader)));
        }
    }
    let last = write(&mut client, writes).await.map_err(|error| error.to_string())?;
    let full = watch(client.clone(), "a".to_owned(), Reader::Quick).await?;
    check_history(&full, last)?;
    for watcher in watchers {
        let watched = watcher.await.map_err(|error| error.to_string())??;
        let expected = full.events.iter().filter(|event| key(event) >= watched.start.as_bytes());
        if !expected.eq(watched.events.iter()) {
            return Err(format!("a watcher from {} saw {} events", watched.start, watched.events.len()));
        }
    }
    Ok(full.events.len())
}

async fn write(client: &mut Client, writes: u32) -> Result<i64, etcd_client::Error> {
    let mut rng = StdRng::seed_from_u64(5);
    for _ in 0..writes {
        let key = |rng: &mut StdRng| vec![rng.random_range(b'a'..=b'e')];
        let mut operations = BTreeMap::new();
        for _ in 0..rng.random_range(1..6) {
            let key = key(&mut rng);
            let operation = if rng.random_bool(0.3) {
                TxnOp::delete(key.clone(), None)
            } else {
                TxnOp::put(key.clone(), vec![b'x'; 3000], None)
            };
            operations.insert(key, operation);
        }
        client.txn(Txn::new().and_then(operations.into_values().collect::<Vec<_>>())).await?;
    }
    Ok(client.put(MARK, "", None).await?.header().expect("answers have headers").revision())
}

async fn watch(mut client: Client, start: String, reader: Reader) -> Result<Watched, String> {
    let deadline = Instant::now() + TIMEOUT;
    let mut watched = Watched { start, events: Vec::new() };
    let mut covered = 0;
    let mut next = 1;
    loop {
        let options = WatchOptions::new().with_range(b"\0".to_vec()).with_start_revision(next).with_prev_key();
        let opened = client.watch(watched.start.clone(), Some(options)).await;
        let mut stream = opened.map_err(|error| error.to_string())?;
        let messages = if reader == Reader::Resuming { 7 } else { usize::MAX };
        for taken in 0..messages {
            if reader == Reader::Slow && taken % 200 == 0 {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            if reader == Reader::Asking {
                stream.request_progress().await.map_err(|error| error.to_string())?;
            }
            let over = take(&mut stream, &mut watched, &mut covered, deadline).await;
            if over.map_err(|wrong| format!("{reader:?}: {wrong}"))? {
                return Ok(watched);
            }
            // From the next revision, whatever was read.
            next = watched.events.last().map_or(next, |event| event.kv.as_ref().unwrap().mod_revision + 1);
        }
    }
}

/// Takes one message; whether it was the last one.
async fn take(
    stream: &mut WatchStream,
    watched: &mut Watched,
    covered: &mut i64,
    deadline: Instant,
) -> Result<bool, String> {
    let message = tokio::time::timeout_at(deadline.into(), stream.message());
    let message = message.await.map_err(|_| format!("no end after {} events", watched.events.len()))?;
    let message = message.map_err(|error| error.to_string())?.ok_or("the watch ended")?.0;
    let last = watched.events.last().map_or(0, |event| event.kv.as_ref().unwrap().mod_revision);
    let mut previous = last;
    for event in &message.events {
        let at = event.kv.as_ref().unwrap().mod_revision;
        if at < previous || at == last {
            return Err(format!("revision {at} after {previous}, of which a message had ended with {last}"));
        }
        if at <= *covered {
            return Err(format!("revision {at} after progress up to {covered}"));
        }
        previous = at;
    }
    if message.events.is_empty() && !message.created {
        *covered = message.header.ok_or("a message without a header")?.revision;
    }
    let over = message.events.iter().any(|event| key(event) == MARK.as_bytes());
    watched.events.extend(message.events);
    Ok(over)
}

/// The full history against a replay: what was there before, whether a key was made, and no revision left out.
fn check_history(full: &Watched, last: i64) -> Result<(), String> {
    let mut state: BTreeMap<Vec<u8>, etcd_client::proto::PbKeyValue> = BTreeMap::new();
    let mut revision = 1;
    for event in &full.events {
        let kv = event.kv.clone().unwrap();
        if kv.mod_revision > revision + 1 {
            // A transaction that deletes what is not there advances nothing, so each revision has an event.
            return Err(format!("nothing at revision {}", revision + 1));
        }
        revision = kv.mod_revision;
        let before = state.get(&kv.key);
        if event.prev_kv.as_ref() != before {
            return Err(format!("{event:?} after {before:?}"));
        }
        if event.r#type == 1 {
            state.remove(&kv.key);
        } else {
            let created = before.map_or(kv.mod_revision, |before| before.create_revision);
            if kv.create_revision != created || kv.version != before.map_or(1, |before| before.version + 1) {
                return Err(format!("{event:?} after {before:?}"));
            }
            state.insert(kv.key.clone(), kv);
        }
    }
    if revision == last { Ok(()) } else { Err(format!("history ends at {revision}, not at {last}")) }
}

fn key(event: &PbEvent) -> &[u8] {
    &event.kv.as_ref().unwrap().key
}

/// A watch from the compacted revision sees what happened at it.
pub(crate) async fn check_bookmark(server: &Server) -> Result<(), String> {
    let mut client = server.client().await;
    client.put("a", "1", None).await.unwrap();
    let at = client.delete("a", None).await.unwrap().header().unwrap().revision();
    client.put("b", "1", None).await.unwrap();
    client.compact(at, None).await.unwrap();
    let options = WatchOptions::new().with_range(b"\0".to_vec()).with_start_revision(at);
    let mut stream = client.watch("a", Some(options)).await.unwrap();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last: &i64| *last <= at) && seen.len() < 2 {
        let message = tokio::time::timeout(TIMEOUT, stream.message()).await.map_err(|error| error.to_string())?;
        let events = message.unwrap().unwrap().0.events;
        seen.extend(events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
    }
    if seen == [at, at + 1] { Ok(()) } else { Err(format!("saw {seen:?}, not {at} and the one after it")) }
}

async fn found(fault: &str) {
    let directory = scratch();
    let server = Server::ours(directory.path(), Some(fault));
    let found = check(&server, 600).await;
    assert!(found.is_err(), "{fault}: {found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_of_every_pace_see_the_same_history() {
    let directory = scratch();
    let server = Server::ours(directory.path(), None);

    let events = check(&server, 1500).await.unwrap();

    assert!(events > 1500, "only {events} events");
    let mut client = server.client().await;
    let keys = client.get("a", Some(GetOptions::new().with_range("f"))).await.unwrap().count();
    assert!(keys <= 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_before_the_events_that_it_covers_is_found() {
    found("ProgressFirst").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_dropped_for_a_slow_watcher_is_found() {
    found("DropForSlow").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_in_several_messages_is_found() {
    found("SplitRevision").await;
}

#[tokio::test]
async fn a_watch_may_begin_at_the_compacted_revision() {
    let directory = scratch();
    assert_eq!(check_bookmark(&Server::ours(directory.path(), None)).await, Ok(()));

    let directory = scratch();
    let found = check_bookmark(&Server::ours(directory.path(), Some("DropTombstone"))).await;
    assert!(found.is_err(), "{found:?}");
}
