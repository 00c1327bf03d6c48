//! Faults that tests put in, one at a time, to see that each is found by the check that is meant for it. Without the
//! feature `faults` there are none.

/// A way to be wrong, or a place to die at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Answers and shows before the sync.
    AckBeforeSync,
    /// Leaves syncing to the system.
    SyncNormal,
    /// Reports progress before the events that it covers.
    ProgressFirst,
    /// Drops what a slow watcher has no room for.
    DropForSlow,
    /// Forgets the deletion at the compacted revision.
    DropTombstone,
    /// Takes the newest row for the revision.
    RevisionFromRows,
    /// Deletes the keys of a lease one by one.
    RevokeInSteps,
    /// Sends each change by itself.
    SplitRevision,
    /// Writes although the comparisons failed.
    IgnoreRace,
    /// Shows what is not synced.
    ReadUnsynced,
    /// Renews a lease whose time is over.
    ReviveLease,
    /// Expires leases after the process stood still.
    NoStallGuard,
    /// Dies with a batch applied and nothing written.
    DieApplied,
    /// Dies with a batch synced and nobody answered.
    DieSynced,
    /// Dies with a compaction recorded and nothing removed.
    DieCompacted,
    /// Dies with some of the compacted rows removed.
    DieRemoving,
}

#[cfg(not(feature = "faults"))]
pub(crate) const fn has(_: Fault) -> bool {
    false
}

#[cfg(not(feature = "faults"))]
pub(crate) const fn die_at(_: Fault) {}

#[cfg(feature = "faults")]
pub(crate) use self::put_in::{die_at, has};

#[cfg(feature = "faults")]
mod put_in {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    };

    use super::Fault;

    /// `NAME`, or `NAME:N` to die at the Nth time.
    static PUT_IN: LazyLock<Option<(String, u32)>> = LazyLock::new(|| {
        let text = std::env::var("WEFT_STORE_FAULT").ok()?;
        let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), count.parse().ok()?))
    });

    static PASSED: AtomicU32 = AtomicU32::new(0);

    pub(crate) fn has(fault: Fault) -> bool {
        PUT_IN.as_ref().is_some_and(|(name, _)| *name == format!("{fault:?}"))
    }

    pub(crate) fn die_at(fault: Fault) {
        let last = || PUT_IN.as_ref().map_or(0, |(_, count)| *count);
        if has(fault) && PASSED.fetch_add(1, Ordering::Relaxed) + 1 >= last() {
            std::process::abort();
        }
    }
}
