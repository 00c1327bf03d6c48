//! Headers of answers: who answered, and as of which revision.

use etcd_client::proto::PbResponseHeader;

use crate::mvcc::Revision;

/// Which store this is. A restored one is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: u64,
    pub(crate) member: u64,
}

/// There are no elections: the term never changes.
pub(crate) const TERM: u64 = 1;

impl Identity {
    pub(crate) fn header(&self, revision: Revision) -> Option<PbResponseHeader> {
        Some(PbResponseHeader { cluster_id: self.cluster, member_id: self.member, revision, raft_term: TERM })
    }

    /// Completes a header that has only a revision.
    pub(crate) fn complete(&self, header: &mut Option<PbResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = self.header(revision);
    }
}

/// The header of a part of an answer, which tells the revision alone.
pub(crate) fn of_part(revision: Revision) -> Option<PbResponseHeader> {
    Some(PbResponseHeader { revision, ..PbResponseHeader::default() })
}
