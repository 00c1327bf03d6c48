//! The store that a controller serves: what it holds, and what was done with it.

use serde::Serialize;
use weft_embedded_store::StoreStatus;

use super::{Page, fields};

/// What `weft store status` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct StoreShown {
    directory: String,
    cluster_id: String,
    revision: i64,
    compacted_revision: i64,
    keys: usize,
    leases: usize,
    bytes: u64,
}

/// What `weft store backup` and `restore` say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct StoreCopied {
    pub(crate) file: String,
    pub(crate) revision: i64,
    pub(crate) keys: usize,
}

/// What `weft store export` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct StoreExported {
    pub(crate) to: String,
    pub(crate) keys: usize,
    pub(crate) left_behind: usize,
}

impl StoreShown {
    pub(crate) fn new(directory: String, status: &StoreStatus) -> Self {
        Self {
            directory,
            cluster_id: format!("{:x}", status.cluster_id),
            revision: status.revision,
            compacted_revision: status.compacted,
            keys: status.keys,
            leases: status.leases,
            bytes: status.bytes,
        }
    }
}

impl Page for StoreShown {
    fn page(&self) -> String {
        fields([
            ("Directory", self.directory.clone()),
            ("Cluster", self.cluster_id.clone()),
            ("Revision", self.revision.to_string()),
            ("Compacted", self.compacted_revision.to_string()),
            ("Keys", self.keys.to_string()),
            ("Leases", self.leases.to_string()),
            ("Size", format!("{} bytes", self.bytes)),
        ])
    }
}

impl Page for StoreCopied {
    fn page(&self) -> String {
        format!("{}: {} keys at revision {}\n", self.file, self.keys, self.revision)
    }
}

impl Page for StoreExported {
    fn page(&self) -> String {
        format!("{}: {} keys written, {} on leases left behind\n", self.to, self.keys, self.left_behind)
    }
}
