//! The index in memory: every version of every key that is still kept, and the changes in the order of their revisions.
//!
//! Knows nothing of disks, clients or durability: callers say as of which revision they look. A revision is atomic: its
//! changes are appended together and leave together.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use etcd_client::proto::PbKeyValue;

use crate::fault::{self, Fault};

/// A revision of the store; 1 when it is empty, and one more with each change.
pub type Revision = i64;

/// What a fresh store has as its compaction, as etcd does: even revision 0 can then be compacted once.
pub(crate) const NEVER_COMPACTED: Revision = -1;

/// One version of one key, or its deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) key: Arc<[u8]>,
    /// `None`: the key was deleted.
    pub(crate) value: Option<Box<[u8]>>,
    pub(crate) created: Revision,
    pub(crate) modified: Revision,
    /// Position among the changes of its revision.
    pub(crate) sub: i64,
    /// How often the key was set since it was created.
    pub(crate) version: i64,
    pub(crate) lease: i64,
}

impl Version {
    pub(crate) fn is_deletion(&self) -> bool {
        self.value.is_none()
    }

    /// The message that stands for it; of a deletion etcd keeps the key alone.
    pub(crate) fn message(&self) -> PbKeyValue {
        if self.is_deletion() {
            return PbKeyValue { key: self.key.to_vec(), ..PbKeyValue::default() };
        }
        PbKeyValue {
            key: self.key.to_vec(),
            create_revision: self.created,
            mod_revision: self.modified,
            version: self.version,
            value: self.value.as_deref().unwrap_or_default().to_vec(),
            lease: self.lease,
        }
    }
}

/// The keys that a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Span {
    /// One key.
    One(Vec<u8>),
    /// From a key up to another one, which is not among them, or to the end.
    From(Vec<u8>, Option<Vec<u8>>),
}

impl Span {
    /// As etcd reads a key and the end of a range: no end is one key, an end of a single zero byte is no limit.
    pub(crate) fn new(key: &[u8], range_end: &[u8]) -> Self {
        match range_end {
            [] => Self::One(key.to_vec()),
            [0] => Self::From(key.to_vec(), None),
            end => Self::From(key.to_vec(), Some(end.to_vec())),
        }
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::From(start, end) => start.as_slice() <= key && end.as_ref().is_none_or(|end| key < end.as_slice()),
        }
    }
}

/// The changes of one revision, in order.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) revision: Revision,
    pub(crate) changes: Box<[Arc<Version>]>,
}

/// A row on disk that compaction has made useless, by revision and position in it.
pub(crate) type RowId = (Revision, i64);

/// The versions of a key, oldest first.
type History = Vec<Arc<Version>>;

/// The index.
#[derive(Debug)]
pub(crate) struct Mvcc {
    keys: BTreeMap<Arc<[u8]>, History>,
    records: VecDeque<Record>,
    pub(crate) applied: Revision,
    pub(crate) compacted: Revision,
}

impl Mvcc {
    pub(crate) fn new(applied: Revision, compacted: Revision) -> Self {
        Self { keys: BTreeMap::new(), records: VecDeque::new(), applied, compacted }
    }

    /// The version of a key that was current at a revision; `None` when there was none.
    pub(crate) fn at(&self, key: &[u8], revision: Revision) -> Option<&Arc<Version>> {
        live(self.keys.get(key)?, revision)
    }

    /// The keys of a span that existed at a revision, in order.
    pub(crate) fn span<'a>(
        &'a self,
        span: &Span,
        revision: Revision,
    ) -> Box<dyn Iterator<Item = &'a Arc<Version>> + 'a> {
        let (start, end) = match span {
            Span::One(key) => return Box::new(self.at(key, revision).into_iter()),
            Span::From(start, end) => (start.as_slice(), end.as_deref()),
        };
        // A range that ends before it begins is empty; the map would not take it.
        if end.is_some_and(|end| end <= start) {
            return Box::new(std::iter::empty());
        }
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        let histories = self.keys.range::<[u8], _>((Bound::Included(start), upper));
        Box::new(histories.filter_map(move |(_, history)| live(history, revision)))
    }

    /// The newest version of a key, deletions included.
    pub(crate) fn newest(&self, key: &[u8]) -> Option<&Arc<Version>> {
        self.keys.get(key)?.last()
    }

    /// The stored key that equals this one, so that versions share it.
    pub(crate) fn shared_key(&self, key: &[u8]) -> Arc<[u8]> {
        self.keys.get_key_value(key).map_or_else(|| Arc::from(key), |(shared, _)| Arc::clone(shared))
    }

    /// Adds a version; it must be newer than every other one of its key.
    pub(crate) fn insert(&mut self, version: &Arc<Version>) {
        let history = self.keys.entry(Arc::clone(&version.key)).or_insert_with(|| Vec::with_capacity(1));
        history.push(Arc::clone(version));
    }

    /// Takes the newest version of a key back.
    pub(crate) fn remove_newest(&mut self, key: &[u8]) {
        let Some(history) = self.keys.get_mut(key) else { return };
        history.pop();
        if history.is_empty() {
            self.keys.remove(key);
        }
    }

    /// Closes a revision whose versions were inserted.
    pub(crate) fn append(&mut self, record: Record) {
        debug_assert!(record.revision > self.applied, "revisions only go up");
        self.applied = record.revision;
        self.records.push_back(record);
    }

    /// Opens the last revision again, whose versions are about to be taken back.
    pub(crate) fn reopen(&mut self) {
        self.records.pop_back();
        self.applied -= 1;
    }

    /// Revisions from `from` up to `until` inclusive, oldest first; what was compacted is not among them.
    pub(crate) fn records(&self, from: Revision, until: Revision) -> impl Iterator<Item = &Record> {
        let first = self.records.partition_point(|record| record.revision < from);
        self.records.range(first..).take_while(move |record| record.revision <= until)
    }

    /// Drops what nobody can ask for any more and answers what that was. What is current at `revision` stays, and so
    /// does a deletion at exactly that revision: a watch may begin there.
    pub(crate) fn compact(&mut self, revision: Revision) -> Vec<RowId> {
        self.compacted = revision;
        let mut dropped = Vec::new();
        self.keys.retain(|_, history| {
            compact_history(history, revision, &mut dropped);
            !history.is_empty()
        });
        let dropped_too = i64::from(fault::has(Fault::DropTombstone));
        let kept = self.records.partition_point(|record| record.revision < revision + dropped_too);
        self.records.drain(..kept);
        self.records.shrink_to_fit();
        dropped
    }

    /// Number of keys that exist now.
    pub(crate) fn len(&self) -> usize {
        self.keys.values().filter(|history| live(history, Revision::MAX).is_some()).count()
    }

    /// Every version that is kept, in no particular order between keys.
    pub(crate) fn versions(&self) -> impl Iterator<Item = &Arc<Version>> {
        self.keys.values().flatten()
    }
}

fn live(history: &History, revision: Revision) -> Option<&Arc<Version>> {
    let newest = history.iter().rev().find(|version| version.modified <= revision)?;
    (!newest.is_deletion()).then_some(newest)
}

fn compact_history(history: &mut History, revision: Revision, dropped: &mut Vec<RowId>) {
    let past = history.partition_point(|version| version.modified <= revision);
    let Some(newest) = past.checked_sub(1) else { return };
    let bookmark = history[newest].modified == revision && !fault::has(Fault::DropTombstone);
    let stays = bookmark || !history[newest].is_deletion();
    let gone = if stays { newest } else { past };
    if gone == 0 {
        return;
    }
    dropped.extend(history.drain(..gone).map(|version| (version.modified, version.sub)));
    history.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mvcc(changes: &[(&str, Option<&str>)]) -> Mvcc {
        let mut mvcc = Mvcc::new(1, NEVER_COMPACTED);
        for (key, value) in changes {
            let modified = mvcc.applied + 1;
            let version = Arc::new(Version {
                key: mvcc.shared_key(key.as_bytes()),
                value: value.map(|value| value.as_bytes().into()),
                created: modified,
                modified,
                sub: 0,
                version: 1,
                lease: 0,
            });
            mvcc.insert(&version);
            mvcc.append(Record { revision: modified, changes: Box::new([version]) });
        }
        mvcc
    }

    fn keys(mvcc: &Mvcc, span: &Span, revision: Revision) -> Vec<String> {
        mvcc.span(span, revision).map(|version| String::from_utf8_lossy(&version.key).into_owned()).collect()
    }

    #[test]
    fn each_revision_shows_what_was_there() {
        let mvcc = mvcc(&[("a", Some("1")), ("b", Some("2")), ("a", None), ("a", Some("3"))]);
        let all = Span::new(b"\0", b"\0");

        assert_eq!(keys(&mvcc, &all, 1), [""; 0]);
        assert_eq!(keys(&mvcc, &all, 3), ["a", "b"]);
        assert_eq!(keys(&mvcc, &all, 4), ["b"]);
        assert_eq!(keys(&mvcc, &all, 5), ["a", "b"]);
    }

    #[test]
    fn a_span_that_ends_before_it_begins_is_empty() {
        let mvcc = mvcc(&[("a", Some("1")), ("b", Some("2"))]);

        assert_eq!(keys(&mvcc, &Span::new(b"b", b"a"), 9), [""; 0]);
        assert_eq!(keys(&mvcc, &Span::new(b"a", b"a"), 9), [""; 0]);
        assert_eq!(keys(&mvcc, &Span::new(b"a", b"b"), 9), ["a"]);
    }

    #[test]
    fn compaction_keeps_what_is_current_and_the_deletion_at_its_revision() {
        let mut mvcc = mvcc(&[("a", Some("1")), ("a", Some("2")), ("b", Some("3")), ("b", None), ("c", Some("4"))]);

        let dropped = mvcc.compact(5);

        assert_eq!(dropped, [(2, 0), (4, 0)]);
        assert_eq!(mvcc.records(1, 9).map(|record| record.revision).collect::<Vec<_>>(), [5, 6]);
        assert_eq!(mvcc.newest(b"b").map(|version| version.is_deletion()), Some(true));
        assert_eq!(mvcc.compact(6), [(5, 0)]);
        assert_eq!(mvcc.newest(b"b"), None);
        assert_eq!(mvcc.len(), 2);
    }
}
