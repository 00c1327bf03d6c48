//! Writing: one revision in the making, on top of the index and the leases.
//!
//! Changes go into the index at once, so that what follows sees them; readers do not, since they read at an older
//! revision. Everything can be taken back until it is durable.

use std::{sync::Arc, time::Duration};

use etcd_client::proto::{
    PbDeleteRequest, PbDeleteResponse, PbPutRequest, PbPutResponse, PbTxnOpRequest, PbTxnOpResponse, PbTxnRequest,
    PbTxnRequestOp, PbTxnResponse,
};
use etcd_client::proto::{PbRangeRequest, PbRangeResponse, PbResponseOp};

use crate::{
    fault::{self, Fault},
    header,
    lease::{Lease, Leases},
    mvcc::{Mvcc, Record, Revision, Span, Version},
    refusal::Refusal,
    selection::{self, Selection},
};

/// How to take one step back.
#[derive(Debug)]
pub(crate) enum Undo {
    /// A version was inserted.
    Inserted(Arc<Version>),
    /// A revision was closed.
    Closed,
    /// A lease was granted.
    Granted(i64),
    /// A lease was ended.
    Ended(i64, Lease),
}

/// One revision in the making.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) mvcc: &'a mut Mvcc,
    pub(crate) leases: &'a mut Leases,
    changes: Vec<Arc<Version>>,
}

/// A transaction whose comparisons were made: what is to be done, in order.
#[derive(Debug)]
pub(crate) struct Resolved<'a> {
    succeeded: bool,
    pub(crate) steps: Vec<Step<'a>>,
}

/// One operation of it.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    Range(&'a PbRangeRequest),
    Put(&'a PbPutRequest),
    Delete(&'a PbDeleteRequest),
    Txn(Resolved<'a>),
}

impl<'a> Resolved<'a> {
    /// Makes the comparisons, those of nested transactions too: all of them see the state before the transaction.
    pub(crate) fn new(mvcc: &Mvcc, current: Revision, request: &'a PbTxnRequest) -> Self {
        let succeeded = request.compare.iter().all(|compare| selection::holds(mvcc, current, compare))
            || fault::has(Fault::IgnoreRace);
        let operations = if succeeded { &request.success } else { &request.failure };
        let step = |operation: &'a PbTxnRequestOp| match operation.request.as_ref()? {
            PbTxnOpRequest::RequestRange(range) => Some(Step::Range(range)),
            PbTxnOpRequest::RequestPut(put) => Some(Step::Put(put)),
            PbTxnOpRequest::RequestDeleteRange(delete) => Some(Step::Delete(delete)),
            PbTxnOpRequest::RequestTxn(nested) => Some(Step::Txn(Self::new(mvcc, current, nested))),
        };
        Self { succeeded, steps: operations.iter().filter_map(step).collect() }
    }

    /// Every operation in order, those of nested transactions in their places.
    pub(crate) fn visit<E>(&self, visit: &mut impl FnMut(&Step<'a>) -> Result<(), E>) -> Result<(), E> {
        for step in &self.steps {
            match step {
                Step::Txn(nested) => nested.visit(visit)?,
                step => visit(step)?,
            }
        }
        Ok(())
    }

    /// What etcd checks before it carries anything out.
    fn check(&self, mvcc: &Mvcc, current: Revision, leases: Option<&Leases>) -> Result<(), Refusal> {
        self.visit(&mut |step| match (step, leases) {
            (Step::Put(put), Some(leases)) => check_put(mvcc, leases, put),
            _ => Ok(()),
        })?;
        self.visit(&mut |step| match step {
            Step::Range(range) if range.revision > current => Err(Refusal::FutureRevision),
            Step::Range(range) if range.revision != 0 && range.revision < mvcc.compacted => Err(Refusal::Compacted),
            _ => Ok(()),
        })
    }
}

/// Carries out a transaction that only reads.
pub(crate) fn read_txn(mvcc: &Mvcc, current: Revision, request: &PbTxnRequest) -> Result<PbTxnResponse, Refusal> {
    let resolved = Resolved::new(mvcc, current, request);
    resolved.check(mvcc, current, None)?;
    let mut response = read_steps(mvcc, current, &resolved)?;
    response.header = header::of_part(current);
    Ok(response)
}

fn read_steps(mvcc: &Mvcc, current: Revision, resolved: &Resolved<'_>) -> Result<PbTxnResponse, Refusal> {
    let mut responses = Vec::with_capacity(resolved.steps.len());
    for step in &resolved.steps {
        let response = match step {
            Step::Range(range) => PbTxnOpResponse::ResponseRange(Selection::make(mvcc, current, range)?.message()),
            Step::Txn(nested) => PbTxnOpResponse::ResponseTxn(read_steps(mvcc, current, nested)?),
            Step::Put(_) | Step::Delete(_) => continue,
        };
        responses.push(PbResponseOp { response: Some(response) });
    }
    Ok(PbTxnResponse { header: header::of_part(0), succeeded: resolved.succeeded, responses })
}

impl<'a> Draft<'a> {
    pub(crate) fn new(mvcc: &'a mut Mvcc, leases: &'a mut Leases) -> Self {
        Self { mvcc, leases, changes: Vec::new() }
    }

    /// The revision that reads in this draft see.
    fn current(&self) -> Revision {
        self.mvcc.applied + Revision::from(!self.changes.is_empty())
    }

    pub(crate) fn put(&mut self, request: &PbPutRequest) -> Result<PbPutResponse, Refusal> {
        check_lease(self.leases, request)?;
        let previous = self.mvcc.at(&request.key, Revision::MAX).cloned();
        let kept =
            |wanted: bool| if wanted { previous.as_ref().map(Some).ok_or(Refusal::KeyNotFound) } else { Ok(None) };
        let value = match kept(request.ignore_value)? {
            Some(previous) => previous.value.clone().unwrap_or_default(),
            None => request.value.as_slice().into(),
        };
        let lease = kept(request.ignore_lease)?.map_or(request.lease, |previous| previous.lease);
        let revision = self.set(&request.key, value, lease, previous.as_deref());
        let prev_kv = previous.filter(|_| request.prev_kv).map(|previous| previous.message());
        Ok(PbPutResponse { header: header::of_part(revision), prev_kv })
    }

    pub(crate) fn delete(&mut self, request: &PbDeleteRequest) -> PbDeleteResponse {
        let span = Span::new(&request.key, &request.range_end);
        let gone: Vec<_> = self.mvcc.span(&span, Revision::MAX).cloned().collect();
        for version in &gone {
            self.unset(version);
        }
        let prev_kvs =
            if request.prev_kv { gone.iter().map(|version| version.message()).collect() } else { Vec::new() };
        let deleted = i64::try_from(gone.len()).unwrap_or(i64::MAX);
        PbDeleteResponse { header: header::of_part(self.current()), deleted, prev_kvs }
    }

    pub(crate) fn txn(&mut self, resolved: &Resolved<'_>) -> Result<PbTxnResponse, Refusal> {
        resolved.check(self.mvcc, self.mvcc.applied, Some(self.leases))?;
        let mut response = self.steps(resolved)?;
        response.header = header::of_part(self.current());
        Ok(response)
    }

    fn steps(&mut self, resolved: &Resolved<'_>) -> Result<PbTxnResponse, Refusal> {
        let mut responses = Vec::with_capacity(resolved.steps.len());
        for step in &resolved.steps {
            let response = match step {
                Step::Range(range) => PbTxnOpResponse::ResponseRange(self.range(range)?),
                Step::Put(put) => PbTxnOpResponse::ResponsePut(self.put(put)?),
                Step::Delete(delete) => PbTxnOpResponse::ResponseDeleteRange(self.delete(delete)),
                Step::Txn(nested) => PbTxnOpResponse::ResponseTxn(self.steps(nested)?),
            };
            responses.push(PbResponseOp { response: Some(response) });
        }
        Ok(PbTxnResponse { header: header::of_part(0), succeeded: resolved.succeeded, responses })
    }

    fn range(&self, request: &PbRangeRequest) -> Result<PbRangeResponse, Refusal> {
        Ok(Selection::make(self.mvcc, self.current(), request)?.message())
    }

    /// Ends a lease: its keys are deleted in their order, as one revision.
    pub(crate) fn end_lease(&mut self, id: i64) {
        let keys = self.leases.find(id).map(|lease| lease.keys.clone()).unwrap_or_default();
        for key in keys {
            if let Some(version) = self.mvcc.at(&key, Revision::MAX).cloned() {
                self.unset(&version);
            }
        }
    }

    /// Closes the revision; `None` when nothing was changed. What to undo is added to `undo`.
    pub(crate) fn close(self, undo: &mut Vec<Undo>) -> Option<Record> {
        if self.changes.is_empty() {
            return None;
        }
        undo.extend(self.changes.iter().map(|change| Undo::Inserted(Arc::clone(change))));
        undo.push(Undo::Closed);
        let record = Record { revision: self.mvcc.applied + 1, changes: self.changes.into() };
        self.mvcc.append(record.clone());
        Some(record)
    }

    /// Takes back what was done so far.
    pub(crate) fn abandon(self) {
        for change in self.changes.iter().rev() {
            take_back(self.mvcc, self.leases, change);
        }
    }

    fn set(&mut self, key: &[u8], value: Box<[u8]>, lease: i64, previous: Option<&Version>) -> Revision {
        let revision = self.mvcc.applied + 1;
        let version = Version {
            key: self.mvcc.shared_key(key),
            value: Some(value),
            created: previous.map_or(revision, |previous| previous.created),
            modified: revision,
            sub: self.position(),
            version: previous.map_or(0, |previous| previous.version) + 1,
            lease,
        };
        self.insert(version, previous);
        revision
    }

    fn unset(&mut self, previous: &Version) {
        let version = Version {
            key: Arc::clone(&previous.key),
            value: None,
            created: 0,
            modified: self.mvcc.applied + 1,
            sub: self.position(),
            version: 0,
            lease: 0,
        };
        self.insert(version, Some(previous));
    }

    fn insert(&mut self, version: Version, previous: Option<&Version>) {
        let version = Arc::new(version);
        if let Some(previous) = previous {
            self.leases.detach(previous.lease, &previous.key);
        }
        self.leases.attach(version.lease, &version.key);
        self.mvcc.insert(&version);
        self.changes.push(version);
    }

    fn position(&self) -> i64 {
        i64::try_from(self.changes.len()).unwrap_or(i64::MAX)
    }
}

/// Takes steps back, the last one first.
pub(crate) fn undo(mvcc: &mut Mvcc, leases: &mut Leases, steps: Vec<Undo>) {
    for step in steps.into_iter().rev() {
        match step {
            Undo::Inserted(version) => take_back(mvcc, leases, &version),
            Undo::Closed => mvcc.reopen(),
            Undo::Granted(id) => drop(leases.remove(id)),
            Undo::Ended(id, lease) => leases.put_back(id, lease),
        }
    }
}

/// Grants a lease.
pub(crate) fn grant(leases: &mut Leases, (id, ttl): (i64, i64), now: Duration, undo: &mut Vec<Undo>) {
    leases.insert(id, ttl, now);
    undo.push(Undo::Granted(id));
}

fn take_back(mvcc: &mut Mvcc, leases: &mut Leases, version: &Version) {
    mvcc.remove_newest(&version.key);
    leases.detach(version.lease, &version.key);
    if let Some(previous) = mvcc.at(&version.key, Revision::MAX) {
        leases.attach(previous.lease, &previous.key);
    }
}

fn check_put(mvcc: &Mvcc, leases: &Leases, request: &PbPutRequest) -> Result<(), Refusal> {
    if (request.ignore_value || request.ignore_lease) && mvcc.at(&request.key, Revision::MAX).is_none() {
        return Err(Refusal::KeyNotFound);
    }
    check_lease(leases, request)
}

fn check_lease(leases: &Leases, request: &PbPutRequest) -> Result<(), Refusal> {
    let missing = request.lease != 0 && leases.find(request.lease).is_none();
    if missing { Err(Refusal::LeaseNotFound) } else { Ok(()) }
}
