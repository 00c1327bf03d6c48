//! Reading: which versions a list or a comparison is about. Pure, as of a revision that the caller names.

use std::{cmp::Ordering, sync::Arc};

use etcd_client::{
    SortOrder, SortTarget,
    proto::{PbCompare, PbCompareTarget, PbRangeRequest, PbRangeResponse, PbTargetUnion},
};

use crate::{
    header::{self, Identity},
    list::List,
    mvcc::{Mvcc, Revision, Span, Version},
    refusal::Refusal,
};

/// The answer to a list before it is made a message, so that no lock is held meanwhile.
#[derive(Debug)]
pub(crate) struct Selection {
    versions: Vec<Arc<Version>>,
    count: usize,
    more: bool,
    revision: Revision,
    keys_only: bool,
}

impl Selection {
    /// What is asked for, as of `current` unless the request names an older revision.
    pub(crate) fn make(mvcc: &Mvcc, current: Revision, request: &PbRangeRequest) -> Result<Self, Refusal> {
        let revision = readable(mvcc, current, request.revision)?;
        let span = Span::new(&request.key, &request.range_end);
        if request.count_only {
            let count = mvcc.span(&span, revision).count();
            return Ok(Self { versions: Vec::new(), count, more: false, revision: current, keys_only: false });
        }
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        // etcd cuts before it sorts when only a target is named, and after it when an order or a filter is.
        let cut_first = request.sort_order == SortOrder::None as i32 && !filters(request);
        let fetch = if cut_first { limit.saturating_add(1) } else { usize::MAX };
        let mut versions = Vec::new();
        let mut count = 0;
        for version in mvcc.span(&span, revision) {
            count += 1;
            if versions.len() < fetch {
                versions.push(Arc::clone(version));
            }
        }
        versions.retain(|version| passes(request, version));
        sort(request, &mut versions);
        let more = versions.len() > limit;
        versions.truncate(limit);
        Ok(Self { versions, count, more, revision: current, keys_only: request.keys_only })
    }

    /// The answer to a request that asks for nothing else.
    pub(crate) fn list(self, identity: &Identity) -> Result<List, Refusal> {
        let frame = PbRangeResponse { header: identity.header(self.revision), ..self.frame() };
        List::new(frame, self.versions, self.keys_only).ok_or(Refusal::AnswerTooLarge)
    }

    /// The answer as a part of a transaction's.
    pub(crate) fn message(&self) -> PbRangeResponse {
        let kvs = self.versions.iter().map(|version| {
            let mut kv = version.message();
            if self.keys_only {
                kv.value = Vec::new();
            }
            kv
        });
        PbRangeResponse { kvs: kvs.collect(), ..self.frame() }
    }

    /// The answer without the keys.
    fn frame(&self) -> PbRangeResponse {
        PbRangeResponse {
            header: header::of_part(self.revision),
            kvs: Vec::new(),
            more: self.more,
            count: i64::try_from(self.count).unwrap_or(i64::MAX),
        }
    }
}

/// The revision that a request reads at.
pub(crate) fn readable(mvcc: &Mvcc, current: Revision, asked: Revision) -> Result<Revision, Refusal> {
    if asked > current {
        return Err(Refusal::FutureRevision);
    }
    let revision = if asked <= 0 { current } else { asked };
    if revision < mvcc.compacted { Err(Refusal::Compacted) } else { Ok(revision) }
}

/// Whether a comparison holds, as of a revision.
pub(crate) fn holds(mvcc: &Mvcc, current: Revision, compare: &PbCompare) -> bool {
    let span = Span::new(&compare.key, &compare.range_end);
    let mut found = mvcc.span(&span, current).peekable();
    if found.peek().is_none() {
        // A value that is not there cannot be said in a comparison; every number of a missing key is zero.
        return compare.target != PbCompareTarget::Value as i32 && holds_for(compare, None);
    }
    found.all(|version| holds_for(compare, Some(version)))
}

fn holds_for(compare: &PbCompare, version: Option<&Arc<Version>>) -> bool {
    const EQUAL: i32 = 0;
    const GREATER: i32 = 1;
    const LESS: i32 = 2;
    const NOT_EQUAL: i32 = 3;
    let number = |of: fn(&Version) -> i64| version.map_or(0, |version| of(version));
    let ordering = match (PbCompareTarget::try_from(compare.target), &compare.target_union) {
        (Ok(PbCompareTarget::Value), operand) => {
            let operand = if let Some(PbTargetUnion::Value(value)) = operand { value.as_slice() } else { &[] };
            version.and_then(|version| version.value.as_deref()).unwrap_or_default().cmp(operand)
        }
        (Ok(PbCompareTarget::Version), operand) => {
            number(|version| version.version).cmp(&if let Some(PbTargetUnion::Version(n)) = operand { *n } else { 0 })
        }
        (Ok(PbCompareTarget::Create), operand) => {
            let operand = if let Some(PbTargetUnion::CreateRevision(n)) = operand { *n } else { 0 };
            number(|version| version.created).cmp(&operand)
        }
        (Ok(PbCompareTarget::Mod), operand) => {
            let operand = if let Some(PbTargetUnion::ModRevision(n)) = operand { *n } else { 0 };
            number(|version| version.modified).cmp(&operand)
        }
        (Ok(PbCompareTarget::Lease), operand) => {
            number(|version| version.lease).cmp(&if let Some(PbTargetUnion::Lease(n)) = operand { *n } else { 0 })
        }
        (Err(_), _) => Ordering::Equal,
    };
    match compare.result {
        EQUAL => ordering.is_eq(),
        GREATER => ordering.is_gt(),
        LESS => ordering.is_lt(),
        NOT_EQUAL => ordering.is_ne(),
        _ => true,
    }
}

fn filters(request: &PbRangeRequest) -> bool {
    let bounds =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    bounds.iter().any(|bound| *bound != 0)
}

fn passes(request: &PbRangeRequest, version: &Version) -> bool {
    let within = |revision, min, max| (min == 0 || revision >= min) && (max == 0 || revision <= max);
    within(version.modified, request.min_mod_revision, request.max_mod_revision)
        && within(version.created, request.min_create_revision, request.max_create_revision)
}

fn sort(request: &PbRangeRequest, versions: &mut [Arc<Version>]) {
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    let descending = request.sort_order == SortOrder::Descend as i32;
    if target == SortTarget::Key && !descending {
        return;
    }
    let compare = |a: &Arc<Version>, b: &Arc<Version>| match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.created.cmp(&b.created),
        SortTarget::Mod => a.modified.cmp(&b.modified),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    versions.sort_by(|a, b| if descending { compare(b, a) } else { compare(a, b) });
}
