//! The only thread that writes: it takes what waits, carries it out together, makes it durable, and only then shows it
//! and answers.
//!
//! Nothing that is not synced is ever seen: readers look at the published revision, which moves after the sync. Leases
//! live here too, so that a renewal and an expiry cannot pass each other.

use std::{
    collections::VecDeque,
    sync::{
        Arc, PoisonError, RwLockWriteGuard,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbLeaseGrantRequest,
    PbLeaseGrantResponse, PbLeaseKeepAliveResponse, PbLeaseLeasesResponse, PbLeaseRevokeResponse, PbLeaseStatus,
    PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse, PbPutRequest, PbPutResponse, PbTxnRequest, PbTxnResponse,
};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::{
    authority::{Authority, Caller},
    clock::Clock,
    disk::{AppendError, Batch, Log},
    draft::{self, Draft, Resolved, Step, Undo},
    fault::{self, Fault},
    header,
    lease::Leases,
    limits,
    mvcc::{Mvcc, Revision, RowId},
    refusal::Refusal,
    retention::Retention,
    shared::Shared,
};

mod leases;

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// A request to the writer.
#[derive(Debug)]
pub(crate) enum Work {
    Put(PbPutRequest, Reply<PbPutResponse>),
    Delete(PbDeleteRequest, Reply<PbDeleteResponse>),
    Txn(PbTxnRequest, Reply<PbTxnResponse>),
    Compact(PbCompactionRequest, Reply<PbCompactionResponse>),
    Grant(PbLeaseGrantRequest, Reply<PbLeaseGrantResponse>),
    Revoke(i64, Reply<PbLeaseRevokeResponse>),
    KeepAlive(i64, Reply<PbLeaseKeepAliveResponse>),
    TimeToLive(PbLeaseTimeToLiveRequest, Reply<PbLeaseTimeToLiveResponse>),
    Leases(Reply<PbLeaseLeasesResponse>),
}

/// A request and who makes it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) caller: Caller,
    pub(crate) work: Work,
}

/// An answer that waits for what it says to be durable.
type Answer = Box<dyn FnOnce(Result<(), Refusal>) + Send>;

/// What was carried out and is not durable yet.
#[derive(Default)]
struct Pending {
    batch: Batch,
    undo: Vec<Undo>,
    answers: Vec<Answer>,
}

/// The writer.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) leases: Leases,
    pub(crate) log: Box<dyn Log>,
    pub(crate) garbage: VecDeque<RowId>,
    pub(crate) authority: Authority,
    pub(crate) clock: Clock,
    pub(crate) retention: Retention,
}

impl Writer {
    /// Works until nobody can ask any more, or until the log is broken.
    pub(crate) fn run(mut self, queue: &Receiver<Job>) -> Result<(), AppendError> {
        let mut looked = self.clock.now();
        let mut tidied = looked;
        let mut expired = looked;
        loop {
            let jobs = match queue.recv_timeout(limits::TICK) {
                Ok(first) => more_jobs(first, queue),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            let now = self.clock.now();
            self.allow_for_stall(now.saturating_sub(looked));
            looked = now;
            let look = jobs.is_empty() || now.saturating_sub(expired) >= limits::TICK;
            if look {
                expired = now;
            }
            self.step(jobs, now, look)?;
            if now.saturating_sub(tidied) >= limits::TICK {
                self.tidy(now)?;
                tidied = now;
            }
        }
    }

    /// Carries out jobs, and with `expire` ends leases whose time is over.
    fn step(&mut self, jobs: Vec<Job>, now: Duration, expire: bool) -> Result<(), AppendError> {
        let mut pending = Pending::default();
        let shared = Arc::clone(&self.shared);
        {
            let mut mvcc = shared.write();
            for job in jobs {
                self.carry_out(&mut mvcc, &mut pending, job, now);
            }
            for id in if expire { self.leases.expired(now) } else { Vec::new() } {
                info!(lease = id, "lease expired");
                self.end_lease(&mut mvcc, &mut pending, id);
            }
        }
        self.settle(pending)
    }

    /// Makes what was carried out durable, shows it, and answers.
    fn settle(&mut self, mut pending: Pending) -> Result<(), AppendError> {
        let shared = Arc::clone(&self.shared);
        fault::die_at(Fault::DieApplied);
        if fault::has(Fault::AckBeforeSync) {
            self.publish(shared.write(), &pending.batch);
            pending.answers.drain(..).for_each(|answer| answer(Ok(())));
            thread::sleep(Duration::from_millis(3));
        }
        if fault::has(Fault::ReadUnsynced) {
            shared.publish(shared.read().applied);
            thread::sleep(Duration::from_millis(3));
        }
        let outcome = if pending.batch.is_empty() { Ok(()) } else { self.log.append(&pending.batch) };
        fault::die_at(Fault::DieSynced);
        if pending.batch.compacted.is_some() {
            fault::die_at(Fault::DieCompacted);
        }
        let verdict = match &outcome {
            Ok(()) => {
                self.publish(shared.write(), &pending.batch);
                Ok(())
            }
            Err(AppendError::Full) => {
                draft::undo(&mut shared.write(), &mut self.leases, pending.undo);
                Err(Refusal::NoSpace)
            }
            Err(AppendError::Broken(source)) => {
                error!(error = %source, "the store's file cannot be written; stopping, nothing more is acknowledged");
                Err(Refusal::Stopped)
            }
        };
        self.report_space(&outcome);
        pending.answers.drain(..).for_each(|answer| answer(verdict.clone()));
        match outcome {
            Err(AppendError::Broken(source)) => Err(AppendError::Broken(source)),
            Ok(()) | Err(AppendError::Full) => Ok(()),
        }
    }

    fn publish(&mut self, mut mvcc: RwLockWriteGuard<'_, Mvcc>, batch: &Batch) {
        if let Some(compacted) = batch.compacted {
            self.garbage.extend(mvcc.compact(compacted));
        }
        // Under the lock: nobody may see the compaction and not the revision.
        self.shared.publish(mvcc.applied);
    }

    fn report_space(&self, outcome: &Result<(), AppendError>) {
        let full = matches!(outcome, Err(AppendError::Full));
        if self.shared.set_full(full) == full {
            return;
        }
        if full {
            warn!("no space is left for the store's file: writes are refused until there is");
        } else {
            info!("the store's file can be written again");
        }
    }

    /// A server that was stopped could renew no lease, so the time does not count.
    fn allow_for_stall(&mut self, since_last_look: Duration) {
        if since_last_look > limits::TICK + limits::STALL && !fault::has(Fault::NoStallGuard) {
            warn!(seconds = since_last_look.as_secs(), "this process stood still; every lease gets that time back");
            self.leases.extend(since_last_look);
        }
    }

    /// Work that can wait until nobody asks: old history, and rows that compaction left.
    fn tidy(&mut self, now: Duration) -> Result<(), AppendError> {
        let due = {
            let mvcc = self.shared.read();
            self.retention.due(now, mvcc.applied, mvcc.compacted)
        };
        if let Some(revision) = due {
            let batch = Batch { compacted: Some(revision), ..Batch::default() };
            self.settle(Pending { batch, ..Pending::default() })?;
        }
        let count = self.garbage.len().min(limits::GARBAGE_ROWS);
        if count > 0 {
            let rows: Vec<RowId> = self.garbage.drain(..count).collect();
            match self.log.discard(&rows) {
                Ok(()) => fault::die_at(Fault::DieRemoving),
                Err(AppendError::Full) => self.garbage.extend(rows),
                Err(broken) => return Err(broken),
            }
        }
        self.shared.set_size(self.log.size());
        Ok(())
    }

    fn carry_out(&mut self, mvcc: &mut Mvcc, pending: &mut Pending, job: Job, now: Duration) {
        let caller = &job.caller;
        match job.work {
            Work::Put(request, reply) => {
                let done = self.write(mvcc, pending, (caller, &Step::Put(&request)), |draft| draft.put(&request));
                pending.answer(reply, done);
            }
            Work::Delete(request, reply) => {
                let step = Step::Delete(&request);
                let done = self.write(mvcc, pending, (caller, &step), |draft| Ok(draft.delete(&request)));
                pending.answer(reply, done);
            }
            Work::Txn(request, reply) => {
                let done = self.txn(mvcc, pending, caller, &request);
                pending.answer(reply, done);
            }
            Work::Compact(request, reply) => {
                let done = compact(mvcc, pending, caller, request.revision);
                pending.answer(reply, done);
            }
            Work::Grant(request, reply) => {
                let done = self.grant(pending, &request, now);
                pending.answer(reply, done.map(|granted| leases::with_revision(granted, mvcc.applied)));
            }
            Work::Revoke(id, reply) => {
                let done = self.revoke(mvcc, pending, caller, id);
                pending.answer(reply, done);
            }
            Work::KeepAlive(id, reply) => {
                let allowed = self.authority.check_lease(caller, mvcc, &self.leases, id);
                let done = allowed.map(|()| self.keep_alive(mvcc, pending, id, now));
                pending.answer(reply, done);
            }
            Work::TimeToLive(request, reply) => {
                pending.answer(reply, Ok(self.time_to_live(mvcc.applied, &request, now)));
            }
            Work::Leases(reply) => {
                let leases = self.leases.ids().map(|id| PbLeaseStatus { id }).collect();
                pending.answer(reply, Ok(PbLeaseLeasesResponse { header: header::of_part(mvcc.applied), leases }));
            }
        }
    }

    fn write<T>(
        &mut self,
        mvcc: &mut Mvcc,
        pending: &mut Pending,
        (caller, step): (&Caller, &Step<'_>),
        write: impl FnOnce(&mut Draft<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        self.authority.check_step(caller, (mvcc, &self.leases), step)?;
        let mut draft = Draft::new(mvcc, &mut self.leases);
        match write(&mut draft) {
            Ok(done) => {
                pending.batch.records.extend(draft.close(&mut pending.undo));
                Ok(done)
            }
            Err(refusal) => {
                draft.abandon();
                Err(refusal)
            }
        }
    }

    fn txn(
        &mut self,
        mvcc: &mut Mvcc,
        pending: &mut Pending,
        caller: &Caller,
        request: &PbTxnRequest,
    ) -> Result<PbTxnResponse, Refusal> {
        let resolved = Resolved::new(mvcc, mvcc.applied, request);
        self.authority.check_txn(caller, (mvcc, &self.leases), &resolved)?;
        let mut draft = Draft::new(mvcc, &mut self.leases);
        match draft.txn(&resolved) {
            Ok(done) => {
                pending.batch.records.extend(draft.close(&mut pending.undo));
                Ok(done)
            }
            Err(refusal) => {
                draft.abandon();
                Err(refusal)
            }
        }
    }
}

impl Pending {
    fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, done: Result<T, Refusal>) {
        // Nobody may be waiting any more.
        self.answers.push(Box::new(move |verdict| drop(reply.send(verdict.and(done)))));
    }
}

/// What waits already, up to a batch. Compaction is the last one of a batch: it counts for those after it.
fn more_jobs(first: Job, queue: &Receiver<Job>) -> Vec<Job> {
    let mut jobs = vec![first];
    while jobs.len() < limits::BATCH && !matches!(jobs.last(), Some(Job { work: Work::Compact(..), .. })) {
        let Ok(job) = queue.try_recv() else { break };
        jobs.push(job);
    }
    jobs
}

fn compact(
    mvcc: &Mvcc,
    pending: &mut Pending,
    caller: &Caller,
    revision: Revision,
) -> Result<PbCompactionResponse, Refusal> {
    Authority::check_compact(caller)?;
    if revision <= mvcc.compacted {
        return Err(Refusal::Compacted);
    }
    if revision > mvcc.applied {
        return Err(Refusal::FutureRevision);
    }
    pending.batch.compacted = Some(revision);
    Ok(PbCompactionResponse { header: header::of_part(mvcc.applied) })
}

impl Shared {
    /// Locks the index for writing. A panic of a reader leaves it as it was.
    fn write(&self) -> RwLockWriteGuard<'_, Mvcc> {
        self.mvcc.write().unwrap_or_else(PoisonError::into_inner)
    }
}
