//! For how long history is kept when nobody compacts: half an hour, and ten thousand revisions however old.

use std::{collections::VecDeque, time::Duration};

use crate::{limits, mvcc::Revision};

/// How often the revision is noted.
const EVERY: Duration = Duration::from_secs(60);

/// Notes of when the store was at which revision.
#[derive(Debug, Default)]
pub(crate) struct Retention {
    notes: VecDeque<(Duration, Revision)>,
}

impl Retention {
    /// Takes a note; answers the revision to compact at, if some history is old enough.
    pub(crate) fn due(&mut self, now: Duration, applied: Revision, compacted: Revision) -> Option<Revision> {
        if self.notes.back().is_none_or(|(noted, _)| now.saturating_sub(*noted) >= EVERY) {
            self.notes.push_back((now, applied));
        }
        let mut old = None;
        while let Some((noted, revision)) = self.notes.front() {
            if now.saturating_sub(*noted) < limits::HISTORY {
                break;
            }
            old = Some(*revision);
            self.notes.pop_front();
        }
        let revision = old?.min(applied - limits::HISTORY_REVISIONS);
        (revision > compacted.max(1)).then_some(revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_kept_for_its_time_and_length() {
        let mut retention = Retention::default();
        let at = |minutes: u64| Duration::from_secs(minutes * 60);

        assert_eq!(retention.due(at(0), 50_000, -1), None);
        assert_eq!(retention.due(at(29), 90_000, -1), None);
        assert_eq!(retention.due(at(30), 95_000, -1), Some(50_000));
        assert_eq!(retention.due(at(59), 95_001, 50_000), Some(85_001));
    }
}
