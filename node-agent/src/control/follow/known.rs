//! What a follower remembers of its range: enough to tell new from old, and to notice that much is missing.
//!
//! Pure. An event that is not newer than what is known is dropped: some releases of etcd go back in time after a member
//! has installed a snapshot or when a watch moves to a member that lags behind.

use std::collections::{BTreeMap, BTreeSet};

use weft_overlay::{
    store::{Event, Page},
    txn::{KeyValue, Revision},
};

/// A snapshot that removes more than this share ...
const MOST_PERCENT: usize = 30;
/// ... and more than this many keys is read twice.
const MOST_KEYS: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListVerdict {
    /// At least as new as what is known.
    Continues,
    /// Older than what is known or from another store. Only a linearizable answer proves it.
    Replaced,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    revisions: BTreeMap<Vec<u8>, Revision>,
    /// What a replaced store does not have and the consumer still keeps.
    carried: BTreeSet<Vec<u8>>,
    /// Everything up to here was reported.
    complete: Revision,
    /// The highest revision that the store is known to have reached.
    newest: Revision,
    cluster: Option<u64>,
}

impl Known {
    pub(super) fn complete(&self) -> Revision {
        self.complete
    }

    pub(super) fn len(&self) -> usize {
        self.revisions.len() + self.carried.len()
    }

    pub(super) fn judge_list(&self, revision: Revision, cluster_id: u64) -> ListVerdict {
        let same_store = self.cluster.is_none_or(|cluster| cluster == cluster_id);
        if same_store && revision >= self.newest { ListVerdict::Continues } else { ListVerdict::Replaced }
    }

    pub(super) fn would_lose_most(&self, listed: &[KeyValue]) -> bool {
        let listed: BTreeSet<&[u8]> = listed.iter().map(|kv| kv.key.as_slice()).collect();
        let missing = self.kept().filter(|key| !listed.contains(key)).count();
        let everything = missing == self.len() && missing > 1;
        everything || (missing > MOST_KEYS && missing * 100 > self.len() * MOST_PERCENT)
    }

    /// Takes a list as the truth; with `merging`, what it does not have is still kept by the consumer.
    pub(super) fn accept_list(&mut self, page: &Page, merging: bool) {
        let revisions: BTreeMap<_, _> = page.kvs.iter().map(|kv| (kv.key.clone(), kv.mod_revision)).collect();
        let kept: BTreeSet<Vec<u8>> = self.kept().map(<[u8]>::to_vec).collect();
        self.carried = if merging {
            kept.into_iter().filter(|key| !revisions.contains_key(key)).collect()
        } else {
            BTreeSet::new()
        };
        self.revisions = revisions;
        self.complete = page.revision;
        self.newest = page.revision;
        self.cluster = Some(page.cluster_id);
    }

    /// Those of the events that are news. Their last revision may continue in the next answer, so it is not complete yet.
    pub(super) fn accept_events(&mut self, events: Vec<Event>, revision: Revision) -> Vec<Event> {
        self.newest = self.newest.max(revision);
        let last = events.iter().map(Event::revision).max();
        let news = events.into_iter().filter(|event| self.accept_event(event)).collect();
        self.complete = self.complete.max(last.map_or(0, |last| last - 1));
        news
    }

    pub(super) fn accept_progress(&mut self, revision: Revision) -> bool {
        let further = revision > self.complete;
        self.complete = self.complete.max(revision);
        self.newest = self.newest.max(revision);
        further
    }

    fn accept_event(&mut self, event: &Event) -> bool {
        if event.revision() <= self.complete {
            return false;
        }
        match event {
            Event::Put(kv) => {
                if self.revisions.get(&kv.key).is_some_and(|known| *known >= kv.mod_revision) {
                    return false;
                }
                self.carried.remove(&kv.key);
                self.revisions.insert(kv.key.clone(), kv.mod_revision);
                true
            }
            Event::Delete { key, revision } => {
                if self.revisions.get(key).is_some_and(|known| *known >= *revision) {
                    return false;
                }
                let carried = self.carried.remove(key);
                self.revisions.remove(key).is_some() || carried
            }
        }
    }

    fn kept(&self) -> impl Iterator<Item = &[u8]> {
        self.revisions.keys().chain(&self.carried).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, mod_revision: Revision) -> KeyValue {
        KeyValue { key: key.into(), value: Vec::new(), create_revision: mod_revision, mod_revision, lease: 0 }
    }

    fn put(key: &str, revision: Revision) -> Event {
        Event::Put(kv(key, revision))
    }

    fn delete(key: &str, revision: Revision) -> Event {
        Event::Delete { key: key.into(), revision }
    }

    fn page(keys: &[(&str, Revision)], revision: Revision) -> Page {
        Page { kvs: keys.iter().map(|(key, at)| kv(key, *at)).collect(), more: false, revision, cluster_id: 1 }
    }

    #[test]
    fn events_from_the_past_are_dropped() {
        let mut known = Known::default();
        known.accept_list(&page(&[("a", 5)], 7), false);

        assert!(known.accept_events(vec![put("a", 5), put("b", 7), delete("a", 6)], 7).is_empty());
        assert_eq!(known.accept_events(vec![put("a", 9), delete("a", 10)], 10).len(), 2);
        assert!(known.accept_events(vec![put("a", 9)], 10).is_empty(), "a deleted key came back");
    }

    #[test]
    fn a_revision_is_complete_only_when_a_later_one_was_seen() {
        let mut known = Known::default();
        known.accept_list(&page(&[], 7), false);

        assert_eq!(known.accept_events(vec![put("a", 9)], 12).len(), 1);
        assert_eq!(known.complete(), 8);
        assert_eq!(known.accept_events(vec![put("a", 9), put("b", 9)], 12), vec![put("b", 9)]);
        assert!(known.accept_progress(12));
        assert_eq!(known.complete(), 12);
    }

    #[test]
    fn losing_most_or_all_keys_is_noticed() {
        let names: Vec<String> = (0..200).map(|n| format!("k{n:03}")).collect();
        let all: Vec<(&str, Revision)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let mut known = Known::default();
        known.accept_list(&page(&all, 1), false);

        assert!(!known.would_lose_most(&page(&all[60..], 2).kvs));
        assert!(known.would_lose_most(&page(&all[61..], 2).kvs));
        assert!(known.would_lose_most(&[]));
    }

    #[test]
    fn another_history_is_told_from_a_later_one() {
        let mut known = Known::default();
        known.accept_list(&page(&[("a", 5)], 7), false);

        assert_eq!(known.judge_list(7, 1), ListVerdict::Continues);
        assert_eq!(known.judge_list(6, 1), ListVerdict::Replaced);
        assert_eq!(known.judge_list(8, 2), ListVerdict::Replaced);
    }

    #[test]
    fn a_key_that_a_replaced_store_lacks_is_still_deleted_by_its_events() {
        let mut known = Known::default();
        known.accept_list(&page(&[("a", 5), ("b", 6)], 7), false);
        known.accept_list(&page(&[("b", 2)], 3), true);

        assert_eq!(known.accept_events(vec![delete("a", 4), delete("c", 4)], 4), vec![delete("a", 4)]);
        assert_eq!(known.len(), 1);
    }
}
