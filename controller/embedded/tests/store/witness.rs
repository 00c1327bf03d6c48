//! Linearizability under concurrency: every answer names its revision, so the order is known and only has to be checked.
//!
//! Writes are replayed in the order of their revisions; each answer must be what the replay says, and an operation that
//! ended before another began must not have a greater revision.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp, TxnOpResponse};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::servers::{Server, scratch};

const CLIENTS: u64 = 8;
const KEYS: u8 = 5;

/// What was asked and what came of it.
#[derive(Debug, Clone)]
enum Done {
    Put {
        key: u8,
        value: u64,
    },
    /// Set if it was at this revision; whether it was, and else what was seen.
    Swap {
        key: u8,
        value: u64,
        expected: i64,
        succeeded: bool,
        seen: Option<(i64, u64)>,
    },
    Get {
        key: u8,
        seen: Option<(i64, u64)>,
    },
    Delete {
        key: u8,
        deleted: bool,
    },
}

#[derive(Debug, Clone)]
struct Answered {
    began: Instant,
    ended: Instant,
    revision: i64,
    done: Done,
}

/// Lets clients contend for a few keys and checks what they were told.
pub(crate) async fn check(server: &Server, time: Duration) -> Result<usize, String> {
    let until = Instant::now() + time;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(tokio::spawn(contend(server.client().await, number, until)));
    }
    let mut answers = Vec::new();
    for client in clients {
        answers.extend(client.await.map_err(|error| error.to_string())?);
    }
    judge(answers)
}

async fn contend(mut client: Client, number: u64, until: Instant) -> Vec<Answered> {
    let mut rng = StdRng::seed_from_u64(number);
    let mut answers = Vec::new();
    let mut known: BTreeMap<u8, i64> = BTreeMap::new();
    while Instant::now() < until {
        let key = rng.random_range(0..KEYS);
        let value = number << 32 | answers.len() as u64;
        let expected = known.get(&key).copied().unwrap_or(0);
        let began = Instant::now();
        let (revision, done) = match rng.random_range(0..10) {
            0 => put(&mut client, key, value).await,
            1 => delete(&mut client, key).await,
            2..4 => get(&mut client, key).await,
            _ => swap(&mut client, key, value, expected).await,
        };
        match &done {
            Done::Put { .. } | Done::Swap { succeeded: true, .. } => drop(known.insert(key, revision)),
            Done::Get { seen, .. } | Done::Swap { seen, .. } => drop(known.insert(key, seen.map_or(0, |seen| seen.0))),
            Done::Delete { .. } => drop(known.insert(key, 0)),
        }
        answers.push(Answered { began, ended: Instant::now(), revision, done });
    }
    answers
}

async fn put(client: &mut Client, key: u8, value: u64) -> (i64, Done) {
    let done = client.put([key], value.to_string(), None).await.unwrap();
    (done.header().unwrap().revision(), Done::Put { key, value })
}

async fn delete(client: &mut Client, key: u8) -> (i64, Done) {
    let done = client.delete([key], None).await.unwrap();
    (done.header().unwrap().revision(), Done::Delete { key, deleted: done.deleted() == 1 })
}

async fn get(client: &mut Client, key: u8) -> (i64, Done) {
    let got = client.get([key], None).await.unwrap();
    (got.header().unwrap().revision(), Done::Get { key, seen: seen(got.kvs()) })
}

async fn swap(client: &mut Client, key: u8, value: u64, expected: i64) -> (i64, Done) {
    let txn = Txn::new()
        .when([Compare::mod_revision([key], CompareOp::Equal, expected)])
        .and_then([TxnOp::put([key], value.to_string(), None)])
        .or_else([TxnOp::get([key], None)]);
    let done = client.txn(txn).await.unwrap();
    let seen = done.op_responses().iter().find_map(|response| match response {
        TxnOpResponse::Get(got) => seen(got.kvs()),
        _ => None,
    });
    (done.header().unwrap().revision(), Done::Swap { key, value, expected, succeeded: done.succeeded(), seen })
}

fn seen(kvs: &[etcd_client::KeyValue]) -> Option<(i64, u64)> {
    kvs.first().map(|kv| (kv.mod_revision(), kv.value_str().unwrap().parse().unwrap()))
}

fn judge(mut answers: Vec<Answered>) -> Result<usize, String> {
    answers.sort_by_key(|answer| (answer.revision, !wrote(&answer.done)));
    let mut state: BTreeMap<u8, (i64, u64)> = BTreeMap::new();
    let mut last_written = 0;
    for answer in &answers {
        let revision = answer.revision;
        if wrote(&answer.done) {
            if revision == last_written {
                return Err(format!("two writes at revision {revision}: {answer:?}"));
            }
            last_written = revision;
        }
        let right = match &answer.done {
            Done::Put { key, value } => {
                state.insert(*key, (revision, *value));
                true
            }
            Done::Delete { key, deleted } => state.remove(key).is_some() == *deleted,
            Done::Get { key, seen } => state.get(key) == seen.as_ref(),
            Done::Swap { key, value, expected, succeeded, seen } => {
                let current = state.get(key).copied();
                let matches = current.map_or(0, |current| current.0) == *expected;
                if *succeeded {
                    state.insert(*key, (revision, *value));
                }
                matches == *succeeded && (*succeeded || current == *seen)
            }
        };
        if !right {
            return Err(format!("an answer that contradicts the order of revisions: {answer:?}"));
        }
    }
    check_real_time(&mut answers)?;
    Ok(answers.len())
}

fn wrote(done: &Done) -> bool {
    matches!(done, Done::Put { .. } | Done::Swap { succeeded: true, .. } | Done::Delete { deleted: true, .. })
}

/// What ended before something began is not after it.
fn check_real_time(answers: &mut [Answered]) -> Result<(), String> {
    let mut ended: Vec<(Instant, i64)> = answers.iter().map(|answer| (answer.ended, answer.revision)).collect();
    ended.sort();
    answers.sort_by_key(|answer| answer.began);
    let mut ended = ended.into_iter().peekable();
    let mut past = 0;
    for answer in answers.iter() {
        while let Some((_, revision)) = ended.next_if(|(end, _)| *end < answer.began) {
            past = past.max(revision);
        }
        let least = past + i64::from(wrote(&answer.done));
        if answer.revision < least {
            return Err(format!("began when revision {past} had been answered: {answer:?}"));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_to_contending_clients_agree_with_one_order() {
    let directory = scratch();
    let server = Server::ours(directory.path(), None);

    let answers = check(&server, Duration::from_secs(4)).await.unwrap();

    assert!(answers > 1000, "only {answers} answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_ignores_a_lost_race_is_found() {
    let directory = scratch();
    let server = Server::ours(directory.path(), Some("IgnoreRace"));

    let found = check(&server, Duration::from_secs(1)).await;

    assert!(found.is_err(), "{found:?}");
}
