//! What of the Docker front end does not work at the moment, for `weft status` to say, and what it remarks on networks, for
//! `weft network inspect`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use weft_overlay::id::NetworkId;

/// Standing troubles, by what they are about. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Troubles {
    standing: Arc<Mutex<BTreeMap<String, String>>>,
    remarks: Arc<Mutex<BTreeMap<NetworkId, String>>>,
}

impl Troubles {
    /// Notes a trouble; true when it is news.
    pub(crate) fn note(&self, about: impl Into<String>, words: impl Into<String>) -> bool {
        let (about, words) = (about.into(), words.into());
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.insert(about, words.clone()).is_none_or(|before| before != words)
    }

    /// Ends the trouble about something, if there was one.
    pub(crate) fn end(&self, about: &str) {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).remove(about);
    }

    /// Remarks on a network, instead of what was remarked before.
    pub(crate) fn remark(&self, network: NetworkId, words: impl Into<String>) {
        self.remarks.lock().unwrap_or_else(PoisonError::into_inner).insert(network, words.into());
    }

    /// What there is to say about a network.
    pub(crate) fn remark_on(&self, network: NetworkId) -> Option<String> {
        self.remarks.lock().unwrap_or_else(PoisonError::into_inner).get(&network).cloned()
    }

    /// Forgets remarks on all networks but these.
    pub(crate) fn keep_remarks(&self, on: &BTreeSet<NetworkId>) {
        self.remarks.lock().unwrap_or_else(PoisonError::into_inner).retain(|network, _| on.contains(network));
    }

    /// All of them, in words.
    pub(crate) fn list(&self) -> Vec<String> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_news_once_and_ends() {
        let troubles = Troubles::default();

        assert!(troubles.note("a", "broken"));
        assert!(!troubles.note("a", "broken"));
        assert!(troubles.note("a", "worse"));
        assert_eq!(troubles.list(), ["worse"]);
        troubles.end("a");
        assert_eq!(troubles.list(), Vec::<String>::new());
    }
}
