//! The store for those who serve it: requests are checked here, reads are made here, writes go to the writer.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbLeaseGrantRequest,
    PbLeaseGrantResponse, PbLeaseKeepAliveResponse, PbLeaseLeasesResponse, PbLeaseRevokeResponse,
    PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse, PbPutRequest, PbPutResponse, PbRangeRequest, PbTxnRequest,
    PbTxnResponse,
};
use tokio::sync::oneshot;

use crate::{
    authority::{Authority, Caller},
    check,
    clock::Clock,
    disk::{Log, OpenError, SqliteLog},
    draft, hash,
    lease::Leases,
    limits,
    list::List,
    mvcc::Revision,
    refusal::Refusal,
    retention::Retention,
    selection::Selection,
    shared::Shared,
    writer::{Job, Reply, Work, Writer},
};

/// The store. Clones share it; the writer ends with the last one.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    pub(crate) shared: Arc<Shared>,
    queue: SyncSender<Job>,
}

/// Tells when the writer has ended: with an error when it could not go on.
pub(crate) type WriterEnded = oneshot::Receiver<Result<(), crate::disk::AppendError>>;

impl Engine {
    /// Opens a data directory and starts the writer.
    pub(crate) fn open(directory: &Path, authority: Authority) -> Result<(Self, WriterEnded), OpenError> {
        let (log, loaded) = SqliteLog::open(directory)?;
        let clock = Clock;
        let mut leases = Leases::default();
        for (id, ttl) in loaded.leases {
            leases.insert(id, ttl, clock.now());
        }
        for version in loaded.mvcc.versions() {
            let current = loaded.mvcc.newest(&version.key).is_some_and(|newest| Arc::ptr_eq(newest, version));
            if current {
                leases.attach(version.lease, &version.key);
            }
        }
        let shared = Arc::new(Shared::new(loaded.mvcc, loaded.identity, log.size()));
        let writer = Writer {
            shared: Arc::clone(&shared),
            leases,
            log: Box::new(log),
            garbage: VecDeque::from(loaded.garbage),
            authority,
            clock,
            retention: Retention::default(),
        };
        let (queue, jobs) = sync_channel(limits::QUEUE);
        let (ended, writer_ended) = oneshot::channel();
        let run = move || drop(ended.send(writer.run(&jobs)));
        let path = directory.to_owned();
        thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(run)
            .map_err(|source| OpenError::Directory { path, source })?;
        Ok((Self { shared, queue }, writer_ended))
    }

    pub(crate) fn range(&self, request: &PbRangeRequest) -> Result<List, Refusal> {
        check::check_range(request)?;
        let selection = {
            let mvcc = self.shared.read();
            Selection::make(&mvcc, self.shared.visible(), request)?
        };
        selection.list(&self.shared.identity)
    }

    pub(crate) async fn put(&self, caller: Caller, request: PbPutRequest) -> Result<PbPutResponse, Refusal> {
        check::check_put(&request)?;
        check::check_size(&request)?;
        let mut response = self.ask(caller, |reply| Work::Put(request, reply)).await?;
        self.shared.identity.complete(&mut response.header);
        Ok(response)
    }

    pub(crate) async fn delete(&self, caller: Caller, request: PbDeleteRequest) -> Result<PbDeleteResponse, Refusal> {
        check::check_delete(&request)?;
        check::check_size(&request)?;
        let mut response = self.ask(caller, |reply| Work::Delete(request, reply)).await?;
        self.shared.identity.complete(&mut response.header);
        Ok(response)
    }

    pub(crate) async fn txn(&self, caller: Caller, request: PbTxnRequest) -> Result<PbTxnResponse, Refusal> {
        check::check_txn(&request)?;
        check::check_size(&request)?;
        let mut response = if check::writes(&request) {
            self.ask(caller, |reply| Work::Txn(request, reply)).await?
        } else {
            let mvcc = self.shared.read();
            draft::read_txn(&mvcc, self.shared.visible(), &request)?
        };
        self.shared.identity.complete(&mut response.header);
        Ok(response)
    }

    pub(crate) async fn compact(
        &self,
        caller: Caller,
        request: PbCompactionRequest,
    ) -> Result<PbCompactionResponse, Refusal> {
        let mut response = self.ask(caller, |reply| Work::Compact(request, reply)).await?;
        self.shared.identity.complete(&mut response.header);
        Ok(response)
    }

    pub(crate) async fn grant(
        &self,
        caller: Caller,
        request: PbLeaseGrantRequest,
    ) -> Result<PbLeaseGrantResponse, Refusal> {
        let mut response = self.ask(caller, |reply| Work::Grant(request, reply)).await?;
        self.shared.identity.complete(&mut response.header);
        Ok(response)
    }

    pub(crate) async fn revoke(&self, caller: Caller, id: i64) -> Result<PbLeaseRevokeResponse, Refusal> {
        let mut response = self.ask(caller, |reply| Work::Revoke(id, reply)).await?;
        self.shared.identity.complete(&mut response.header);
        Ok(response)
    }

    pub(crate) async fn keep_alive(&self, caller: Caller, id: i64) -> Result<PbLeaseKeepAliveResponse, Refusal> {
        let mut response = self.ask(caller, |reply| Work::KeepAlive(id, reply)).await?;
        self.shared.identity.complete(&mut response.header);
        Ok(response)
    }

    pub(crate) async fn time_to_live(
        &self,
        caller: Caller,
        request: PbLeaseTimeToLiveRequest,
    ) -> Result<PbLeaseTimeToLiveResponse, Refusal> {
        let mut response = self.ask(caller, |reply| Work::TimeToLive(request, reply)).await?;
        self.shared.identity.complete(&mut response.header);
        Ok(response)
    }

    pub(crate) async fn leases(&self, caller: Caller) -> Result<PbLeaseLeasesResponse, Refusal> {
        let mut response = self.ask(caller, Work::Leases).await?;
        self.shared.identity.complete(&mut response.header);
        Ok(response)
    }

    /// The checksum of what is kept up to a revision (0: the newest), as etcd reckons it, and the compacted revision.
    pub(crate) fn hash(&self, revision: Revision) -> Result<(u32, Revision), Refusal> {
        let mvcc = self.shared.read();
        hash::of(&mvcc, self.shared.visible(), revision).map(|hash| (hash, mvcc.compacted))
    }

    async fn ask<T>(&self, caller: Caller, work: impl FnOnce(Reply<T>) -> Work) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Job { caller, work: work(reply) }).map_err(|error| match error {
            TrySendError::Full(_) => Refusal::TooManyRequests,
            TrySendError::Disconnected(_) => Refusal::Stopped,
        })?;
        answer.await.map_err(|_| Refusal::Stopped)?
    }
}
