//! The model answers random requests exactly as etcd does, revisions included.

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use weft_overlay::{
    keys::KeyRange,
    store::{
        ListRequest, StoreError,
        memory::{Faults, MemoryStore},
    },
    txn::{Compare, KeyValue, Op, Revision, Txn},
};

use crate::{etcd_process::EtcdProcess, rig::TestStore};

/// Requests of one sequence; revisions count from its beginning and leases are numbered.
#[derive(Debug, Clone)]
enum Request {
    Txn(Txn),
    List { range: KeyRange, limit: usize, revision: Revision },
    Grant,
    Revoke(usize),
    Compact(Revision),
}

/// What came of it, in the same terms.
#[derive(Debug, PartialEq)]
enum Answer {
    Txn { succeeded: bool, revision: Revision, reads: Vec<Vec<KeyValue>> },
    List { kvs: Vec<KeyValue>, more: bool, revision: Revision },
    Done,
    Error(&'static str),
}

/// A store with the offset of its revisions and the ids of its leases.
struct Subject<S> {
    store: S,
    root: Vec<u8>,
    base: Revision,
    leases: Vec<i64>,
}

fn any_key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![40 => (0..6_u8).prop_map(|n| vec![b'a' + n]), 1 => Just(vec![0xff])]
}

fn any_range() -> impl Strategy<Value = KeyRange> {
    (any_key(), any_key()).prop_map(|(start, end)| KeyRange { start, end })
}

fn any_revision() -> impl Strategy<Value = Revision> {
    prop_oneof![1 => Just(0_i64), 10 => 1..15_i64]
}

fn any_compare() -> impl Strategy<Value = Compare> {
    prop_oneof![
        any_key().prop_map(Compare::Absent),
        (any_key(), any_revision()).prop_map(|(key, revision)| Compare::At(key, revision)),
        (any_key(), any_revision()).prop_map(|(key, revision)| Compare::CreatedAt(key, revision)),
        any_range().prop_map(Compare::Empty),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    let lease = prop_oneof![3 => Just(None), 2 => (0..4_i64).prop_map(Some)];
    prop_oneof![
        4 => (any_key(), any::<[u8; 2]>(), lease).prop_map(|(key, value, lease)| Op::Put { key, value: value.to_vec(), lease }),
        2 => any_key().prop_map(Op::Delete),
        1 => any_range().prop_map(Op::DeleteRange),
        2 => any_key().prop_map(Op::Read),
        1 => (any_range(), 0..3_usize).prop_map(|(range, limit)| Op::ReadRange(range, limit)),
    ]
}

fn any_txn() -> impl Strategy<Value = Txn> {
    let ops = || prop::collection::vec(any_op(), 0..4);
    (prop::collection::vec(any_compare(), 0..3), ops(), ops()).prop_map(|(compares, then, or_else)| Txn {
        compares,
        then,
        or_else,
    })
}

/// Transactions at the limits of what is allowed.
fn extreme_txn() -> impl Strategy<Value = Txn> {
    let reads = |n| vec![Op::Read(b"a".to_vec()); n];
    prop_oneof![
        (126..131_usize).prop_map(move |n| Txn { then: reads(n), or_else: reads(256 - n), ..Txn::default() }),
        (126..131_usize).prop_map(|n| Txn { compares: vec![Compare::Absent(b"a".to_vec()); n], ..Txn::default() }),
    ]
}

fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        20 => any_txn().prop_map(Request::Txn),
        1 => extreme_txn().prop_map(Request::Txn),
        6 => (any_range(), 0..4_usize, any_revision()).prop_map(|(range, limit, revision)| Request::List { range, limit, revision }),
        2 => Just(Request::Grant),
        2 => (0..4_usize).prop_map(Request::Revoke),
        1 => (1..12_i64).prop_map(Request::Compact),
    ]
}

impl<S: TestStore> Subject<S> {
    async fn new(store: S, root: &str) -> Self {
        // Whatever was compacted before lies before this write.
        let then = vec![Op::put(b"/begin".to_vec(), Vec::new())];
        let base = store.txn(Txn { then, ..Txn::default() }).await.unwrap().revision - 1;
        Self { store, root: root.as_bytes().to_vec(), base, leases: Vec::new() }
    }

    async fn answer(&mut self, request: &Request) -> Answer {
        match request {
            Request::Txn(txn) => match self.store.txn(self.absolute(txn)).await {
                Ok(reply) => Answer::Txn {
                    succeeded: reply.succeeded,
                    revision: reply.revision - self.base,
                    reads: reply.reads.into_iter().map(|kvs| self.relative(kvs)).collect(),
                },
                Err(error) => kind(&error),
            },
            Request::List { range, limit, revision } => {
                let revision = self.revision(*revision);
                let request = ListRequest { range: self.range(range), limit: *limit, revision, linearizable: true };
                match self.store.list(request).await {
                    Ok(page) => Answer::List {
                        kvs: self.relative(page.kvs),
                        more: page.more,
                        revision: page.revision - self.base,
                    },
                    Err(error) => kind(&error),
                }
            }
            Request::Grant => {
                self.leases.push(self.store.grant(std::time::Duration::from_secs(600)).await.unwrap().id);
                Answer::Done
            }
            Request::Revoke(n) => {
                self.store.revoke(self.lease(*n)).await.unwrap();
                Answer::Done
            }
            Request::Compact(revision) => match self.store.try_compact(self.revision(*revision)).await {
                true => Answer::Done,
                false => Answer::Error("not compacted"),
            },
        }
    }

    fn key(&self, key: &[u8]) -> Vec<u8> {
        [self.root.as_slice(), key].concat()
    }

    fn range(&self, range: &KeyRange) -> KeyRange {
        KeyRange { start: self.key(&range.start), end: self.key(&range.end) }
    }

    fn revision(&self, relative: Revision) -> Revision {
        if relative == 0 { 0 } else { relative + self.base }
    }

    /// The lease of this number, or one that never was.
    fn lease(&self, n: usize) -> i64 {
        self.leases.get(n).copied().unwrap_or(0x7fff_0000)
    }

    fn absolute(&self, txn: &Txn) -> Txn {
        let compare = |compare: &Compare| match compare {
            Compare::Absent(key) => Compare::Absent(self.key(key)),
            Compare::At(key, revision) => Compare::At(self.key(key), self.revision(*revision)),
            Compare::CreatedAt(key, revision) => Compare::CreatedAt(self.key(key), self.revision(*revision)),
            Compare::Empty(range) => Compare::Empty(self.range(range)),
        };
        let op = |op: &Op| match op {
            Op::Put { key, value, lease } => {
                let lease = lease.map(|n| self.lease(usize::try_from(n).unwrap()));
                Op::Put { key: self.key(key), value: value.clone(), lease }
            }
            Op::Delete(key) => Op::Delete(self.key(key)),
            Op::DeleteRange(range) => Op::DeleteRange(self.range(range)),
            Op::Read(key) => Op::Read(self.key(key)),
            Op::ReadRange(range, limit) => Op::ReadRange(self.range(range), *limit),
        };
        Txn {
            compares: txn.compares.iter().map(compare).collect(),
            then: txn.then.iter().map(op).collect(),
            or_else: txn.or_else.iter().map(op).collect(),
        }
    }

    fn relative(&self, kvs: Vec<KeyValue>) -> Vec<KeyValue> {
        let number =
            |lease: i64| self.leases.iter().position(|id| *id == lease).map_or(0, |n| i64::try_from(n + 1).unwrap());
        let kv = |kv: KeyValue| KeyValue {
            key: kv.key[self.root.len()..].to_vec(),
            create_revision: kv.create_revision - self.base,
            mod_revision: kv.mod_revision - self.base,
            lease: number(kv.lease),
            ..kv
        };
        kvs.into_iter().map(kv).collect()
    }
}

fn kind(error: &StoreError) -> Answer {
    Answer::Error(match error {
        StoreError::Unavailable { .. } => "future revision",
        StoreError::ReadOnly { .. } => "read only",
        StoreError::Compacted { .. } => "compacted",
        StoreError::LeaseNotFound { .. } => "lease not found",
        StoreError::Refused { .. } => "refused",
    })
}

#[test]
fn the_model_and_etcd_give_the_same_answers() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let etcd = runtime.block_on(EtcdProcess::start(&[]));
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let mut sequence = 0;

    let sequences = prop::collection::vec(any_request(), 1..25);
    let mut run = |requests: Vec<Request>| {
        sequence += 1;
        let root = format!("/{sequence}/");
        runtime.block_on(async {
            let mut real = Subject::new(etcd.store().await, &root).await;
            let mut model = Subject::new(MemoryStore::new(Faults::none()), &root).await;
            for (n, request) in requests.iter().enumerate() {
                let (expected, actual) = (real.answer(request).await, model.answer(request).await);
                prop_assert_eq!(actual, expected, "request {}", n);
            }
            Ok::<_, TestCaseError>(())
        })
    };
    let run = std::cell::RefCell::new(&mut run);
    runner.run(&sequences, |requests| (run.borrow_mut())(requests)).unwrap();
}
