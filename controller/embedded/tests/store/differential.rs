//! The same operations to etcd and to the embedded store, both empty at first: every answer must be equal, revisions,
//! counts, errors and checksums included, and every watch must see the same events.
//!
//! `WEFT_STORE_OPERATIONS` and `WEFT_STORE_SEED` say how many and which.

use std::time::{Duration, Instant};

use etcd_client::{Client, WatchFilterType, WatchOptions};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    operations::{Condition, Delete, Get, Operand, Operation, Put, Transaction, carry_out},
    servers::{Ours, Server},
};

const OPERATIONS: usize = 100_000;

/// Servers side by side, to use the processors while answers are on their way.
const PAIRS: usize = 4;

/// How long etcd may take to remove what was compacted.
const SETTLING: Duration = Duration::from_secs(3);

/// Operations between two looks at a whole history.
const ROUND: usize = 250;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_answer_equals_that_of_etcd() {
    let operations = setting("WEFT_STORE_OPERATIONS").map_or(OPERATIONS, |n| usize::try_from(n).unwrap());
    let seed = setting("WEFT_STORE_SEED").unwrap_or_else(rand::random);
    println!("WEFT_STORE_SEED={seed}");
    let pairs: Vec<_> = (0..PAIRS as u64)
        .map(|pair| tokio::spawn(compare(seed.wrapping_add(pair), operations.div_ceil(PAIRS))))
        .collect();
    for pair in pairs {
        pair.await.unwrap();
    }
}

async fn compare(seed: u64, operations: usize) {
    let (etcd, ours) = (Server::etcd(), Ours::start().await);
    let (mut theirs, mut own) = (etcd.client().await, ours.client().await);
    let mut dice = Dice { rng: StdRng::seed_from_u64(seed), revision: 1, compacted: 0 };
    let mut history: Vec<Operation> = Vec::new();
    let mut watched = 1;
    for number in 0..operations {
        let operation = dice.operation();
        history.push(operation.clone());
        let (expected, found) = carry_out_on_both(&mut theirs, &mut own, &operation).await;
        assert_eq!(
            expected,
            found,
            "operation {number} of seed {seed} (etcd left, ours right); the last ones: {:?}",
            &history[history.len().saturating_sub(5)..]
        );
        dice.learn(&operation, &expected);
        if number % ROUND == ROUND - 1 {
            compare_watches(&mut dice, (&mut theirs, &mut own), watched).await;
            watched = dice.revision;
            history.clear();
        }
    }
}

async fn carry_out_on_both(theirs: &mut Client, own: &mut Client, operation: &Operation) -> (String, String) {
    let began = Instant::now();
    loop {
        let (expected, found) = tokio::join!(carry_out(theirs, operation), carry_out(own, operation));
        // etcd's checksum counts rows that its compaction is just removing in the background.
        let settling = matches!(operation, Operation::HashKv(_)) && began.elapsed() < SETTLING;
        if expected == found || !settling {
            return (expected, found);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Opens the same watch on both somewhere in history and compares what it sees up to a mark that is set now.
async fn compare_watches(dice: &mut Dice, (theirs, own): (&mut Client, &mut Client), since: i64) {
    let key = dice.key();
    let single = dice.rng.random_bool(0.3);
    let start = dice.rng.random_range(since.max(dice.compacted + 1)..=dice.revision + 1).max(1);
    let filter = *[None, Some(WatchFilterType::NoPut), Some(WatchFilterType::NoDelete)].choose(&mut dice.rng).unwrap();
    let prev_kv = dice.rng.random_bool(0.5);
    let options = || {
        let mut options = WatchOptions::new().with_start_revision(start);
        if !single {
            options = options.with_range(b"\0".to_vec());
        }
        if let Some(filter) = filter {
            options = options.with_filters([filter]);
        }
        if prev_kv { options.with_prev_key() } else { options }
    };
    let mark = if single { key.clone() } else { b"z".to_vec() };
    let mut seen = Vec::new();
    for client in [&mut *theirs, &mut *own] {
        let mut stream = client.watch(key.clone(), Some(options())).await.unwrap();
        client.put(mark.clone(), "mark", None).await.unwrap();
        let end = client.delete(mark.clone(), None).await.unwrap().header().unwrap().revision();
        let last = if matches!(filter, Some(WatchFilterType::NoDelete)) { end - 1 } else { end };
        let mut events = Vec::new();
        let mut reached = 0;
        while reached < last {
            let message = tokio::time::timeout(Duration::from_secs(10), stream.message());
            let message = message.await.expect("a watch says what it saw within 10 s").unwrap().unwrap();
            for event in &message.0.events {
                reached = event.kv.as_ref().unwrap().mod_revision;
                events.push(format!("{event:?}"));
            }
        }
        dice.revision = end;
        seen.push(events);
    }
    let differing = seen[0].iter().zip(&seen[1]).find(|(expected, found)| expected != found);
    assert_eq!(differing, None, "watch of {key:?} single {single} from {start} filter {filter:?} (etcd left)");
    assert_eq!(seen[0].len(), seen[1].len(), "watch of {key:?} single {single} from {start} filter {filter:?}");
}

struct Dice {
    rng: StdRng,
    revision: i64,
    compacted: i64,
}

impl Dice {
    fn learn(&mut self, operation: &Operation, answer: &str) {
        if let Some(at) = answer.find("revision: ")
            && answer.starts_with(|c: char| c.is_alphabetic())
            && answer.contains("header: Some(ResponseHeader")
        {
            let digits: String = answer[at + 10..].chars().take_while(char::is_ascii_digit).collect();
            self.revision = self.revision.max(digits.parse().unwrap_or(0));
        }
        if let Operation::Compact(revision) = operation
            && answer.starts_with("CompactionResponse")
        {
            self.compacted = self.compacted.max(*revision);
        }
    }

    fn operation(&mut self) -> Operation {
        match self.rng.random_range(0..1000) {
            0..300 => Operation::Put(self.put()),
            300..550 => Operation::Get(self.get()),
            550..650 => Operation::Delete(self.delete()),
            650..890 => Operation::Txn(self.transaction(0)),
            890..895 => Operation::Compact(self.rng.random_range(self.compacted - 1..=self.revision + 1)),
            895..920 => Operation::Grant(self.lease(), *[900, 1000, 9_000_000_001].choose(&mut self.rng).unwrap()),
            920..940 => Operation::Revoke(self.lease()),
            940..955 => Operation::KeepAlive(self.lease()),
            955..975 => Operation::TimeToLive(self.lease()),
            975..985 => Operation::Leases,
            _ => Operation::HashKv(if self.rng.random_bool(0.5) { 0 } else { self.old_revision() }),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let first = self.rng.random_range(b'a'..=b'e');
        if self.rng.random_bool(0.5) { vec![first] } else { vec![first, b'1'] }
    }

    fn written_key(&mut self) -> Vec<u8> {
        if self.rng.random_bool(0.01) { Vec::new() } else { self.key() }
    }

    fn end(&mut self, key: &[u8]) -> Vec<u8> {
        match self.rng.random_range(0..10) {
            0..5 => Vec::new(),
            5 => vec![0],
            6 => self.key(),
            _ => key.first().map(|first| vec![first + self.rng.random_range(1..3)]).unwrap_or_default(),
        }
    }

    fn lease(&mut self) -> i64 {
        self.rng.random_range(1..=4)
    }

    fn old_revision(&mut self) -> i64 {
        let oldest = self.revision.saturating_sub(50).min(self.compacted.max(0));
        self.rng.random_range(oldest - 1..=self.revision + 1)
    }

    fn put(&mut self) -> Put {
        let value = self.rng.next_u32().to_string().into_bytes();
        let value = if self.rng.random_bool(0.02) { Vec::new() } else { value };
        let lease = if self.rng.random_bool(0.2) { self.lease() } else { 0 };
        let (ignore_value, ignore_lease) = (self.rng.random_bool(0.05), self.rng.random_bool(0.05));
        Put {
            key: self.written_key(),
            value: if ignore_value && self.rng.random_bool(0.9) { Vec::new() } else { value },
            lease: if ignore_lease && self.rng.random_bool(0.9) { 0 } else { lease },
            prev_kv: self.rng.random_bool(0.3),
            ignore_value,
            ignore_lease,
        }
    }

    fn get(&mut self) -> Get {
        let key = self.written_key();
        let end = self.end(&key);
        let mut bounds = [0; 4];
        if self.rng.random_bool(0.15) {
            bounds[self.rng.random_range(0..4)] = self.old_revision();
        }
        Get {
            end,
            key,
            limit: if self.rng.random_bool(0.3) { self.rng.random_range(-1..5) } else { 0 },
            revision: if self.rng.random_bool(0.25) { self.old_revision() } else { 0 },
            sort: self.rng.random_bool(0.4).then(|| (self.rng.random_range(0..5), self.rng.random_bool(0.5))),
            keys_only: self.rng.random_bool(0.1),
            count_only: self.rng.random_bool(0.1),
            bounds,
        }
    }

    fn delete(&mut self) -> Delete {
        let key = self.written_key();
        Delete { end: self.end(&key), key, prev_kv: self.rng.random_bool(0.3) }
    }

    fn transaction(&mut self, depth: usize) -> Transaction {
        let conditions = self.rng.random_range(0..3);
        let conditions = (0..conditions).map(|_| self.condition()).collect();
        Transaction { conditions, then: self.branch(depth), or_else: self.branch(depth) }
    }

    fn branch(&mut self, depth: usize) -> Vec<Operation> {
        let many = depth == 0 && self.rng.random_bool(0.005);
        let count = if many { self.rng.random_range(126..131) } else { self.rng.random_range(0..4) };
        (0..count)
            .map(|_| match self.rng.random_range(0..10) {
                _ if many => Operation::Get(self.get()),
                0..3 => Operation::Get(self.get()),
                // etcd ends when one of a transaction keeps what an earlier operation of it has deleted.
                3..7 => Operation::Put(Put { ignore_value: false, ignore_lease: false, ..self.put() }),
                7 | 8 => Operation::Delete(self.delete()),
                _ if depth < 2 => Operation::Txn(self.transaction(depth + 1)),
                _ => Operation::Get(self.get()),
            })
            .collect()
    }

    fn condition(&mut self) -> Condition {
        let key = self.written_key();
        let revision = if self.rng.random_bool(0.5) { 0 } else { self.old_revision() };
        let operand = match self.rng.random_range(0..5) {
            0 => Operand::Value(self.rng.next_u32().to_string().into_bytes()),
            1 => Operand::Version(self.rng.random_range(0..4)),
            2 => Operand::Create(revision),
            3 => Operand::Mod(revision),
            _ => Operand::Lease(self.rng.random_range(0..=4)),
        };
        Condition { end: self.end(&key), key, how: self.rng.random_range(0..4), operand }
    }
}
