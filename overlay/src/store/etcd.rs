//! The store port on etcd.
//!
//! One client per endpoint, one endpoint at a time: the balancer of `etcd-client` has no view of health and fails a
//! share of all calls while a member is down. A call moves on to the next endpoint only where its request was certainly
//! not sent; an unknown outcome is reported and never retried. All watches share one stream. Must not interpret keys.

use std::{sync::Arc, time::Duration};

use etcd_client::{GetOptions, LeaseKeepAliveStream, LeaseKeeper};

pub use self::options::{EtcdOptions, EtcdOptionsError, Pem, Timing};
use self::{
    endpoints::{Asked, Endpoints},
    watch::Watches,
};
use super::{Lease, ListRequest, Page, Store, StoreError, Watch, WatchRequest};
use crate::txn::{Txn, TxnReply};

mod endpoints;
mod options;
mod refusal;
mod watch;
mod wire;

/// The largest message that is read: one catch-up of a watch, or one page, whatever the size of its values.
const LARGEST_MESSAGE: usize = 64 << 20;

/// A connection to an etcd cluster. Clones share it.
#[derive(Debug, Clone)]
pub struct EtcdStore {
    endpoints: Arc<Endpoints>,
    watches: Arc<Watches>,
    keeping: Arc<tokio::sync::Mutex<Option<Keeping>>>,
}

/// The stream on which a lease was last kept alive.
#[derive(Debug)]
struct Keeping {
    lease: i64,
    member: usize,
    keeper: LeaseKeeper,
    stream: LeaseKeepAliveStream,
}

impl EtcdStore {
    /// Prepares a client for every endpoint. Connects to none: an unreachable store shows in the first call.
    ///
    /// # Errors
    /// When a certificate or key cannot be used.
    pub async fn connect(options: EtcdOptions) -> Result<Self, EtcdOptionsError> {
        let endpoints = Arc::new(Endpoints::prepare(options).await?);
        let watches = Arc::new(Watches::new(Arc::clone(&endpoints)));
        Ok(Self { endpoints, watches, keeping: Arc::default() })
    }

    /// The store at the other end of a client that was made elsewhere, such as a connection within this process.
    /// `name` stands for it in messages.
    pub fn over(name: &str, client: etcd_client::Client) -> Self {
        let endpoints = Arc::new(Endpoints::single(name, client));
        let watches = Arc::new(Watches::new(Arc::clone(&endpoints)));
        Self { endpoints, watches, keeping: Arc::default() }
    }

    async fn open_keeping(&self, lease: i64) -> Result<(Duration, Option<Keeping>), StoreError> {
        let asked = Asked { lease, ..Asked::default() };
        let opened = self.endpoints.call(asked, |member, client| async move {
            // The first answer is checked by `keep_alive` itself, which does not pass on its TTL.
            let (keeper, stream) = match client.lease_client().keep_alive(lease).await {
                Err(error) if refusal::is_dead_lease(&error) => return Ok(None),
                opened => opened?,
            };
            let mut keeping = Keeping { lease, member, keeper, stream };
            let ttl = keeping.renew().await?;
            Ok(Some((ttl, keeping)))
        });
        Ok(opened.await?.map_or((Duration::ZERO, None), |(ttl, keeping)| (ttl, Some(keeping))))
    }
}

impl Store for EtcdStore {
    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        let asked = Asked { lease: wire::only_lease(&txn), ..Asked::default() };
        let request = wire::txn(txn);
        let reply = self.endpoints.call(asked, |_, client| {
            let request = request.clone();
            async move { client.kv_client().max_decoding_message_size(LARGEST_MESSAGE).txn(request).await }
        });
        Ok(wire::reply(reply.await?))
    }

    async fn list(&self, request: ListRequest) -> Result<Page, StoreError> {
        let asked = Asked { revision: request.revision, ..Asked::default() };
        let mut options = GetOptions::new()
            .with_range(request.range.end)
            .with_limit(wire::limit(request.limit))
            .with_revision(request.revision);
        if !request.linearizable {
            options = options.with_serializable();
        }
        let start = request.range.start;
        let response = self.endpoints.call(asked, |_, client| {
            let (start, options) = (start.clone(), Some(options.clone()));
            async move { client.kv_client().max_decoding_message_size(LARGEST_MESSAGE).get(start, options).await }
        });
        Ok(wire::page(response.await?))
    }

    async fn watch(&self, request: WatchRequest) -> Result<Watch, StoreError> {
        self.watches.open(request).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let seconds = wire::whole_seconds(ttl);
        let grant = |_, client: etcd_client::Client| async move { client.lease_client().grant(seconds, None).await };
        let granted = self.endpoints.call(Asked::default(), grant).await?;
        Ok(Lease { id: granted.id(), ttl: wire::seconds(granted.ttl()) })
    }

    async fn keep_alive(&self, lease: i64) -> Result<Duration, StoreError> {
        let kept = self.keeping.lock().await.take().filter(|keeping| keeping.lease == lease);
        let (ttl, keeping) = match kept {
            Some(mut keeping) => {
                let asked = Asked { lease, ..Asked::default() };
                (self.endpoints.once(asked, keeping.member, keeping.renew()).await?, Some(keeping))
            }
            None => self.open_keeping(lease).await?,
        };
        *self.keeping.lock().await = keeping.filter(|_| !ttl.is_zero());
        Ok(ttl)
    }

    async fn time_to_live(&self, lease: i64) -> Result<Duration, StoreError> {
        let ask = |_, client: etcd_client::Client| async move { client.lease_client().time_to_live(lease, None).await };
        let answer = self.endpoints.call(Asked { lease, ..Asked::default() }, ask).await?;
        Ok(wire::seconds(answer.ttl()))
    }

    async fn revoke(&self, lease: i64) -> Result<(), StoreError> {
        let revoke = |_, client: etcd_client::Client| async move { client.lease_client().revoke(lease).await };
        match self.endpoints.call(Asked { lease, ..Asked::default() }, revoke).await {
            Ok(_) | Err(StoreError::LeaseNotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn endpoint(&self) -> String {
        self.endpoints.current_url()
    }
}

impl Keeping {
    async fn renew(&mut self) -> Result<Duration, etcd_client::Error> {
        self.keeper.keep_alive().await?;
        let ended = || etcd_client::Error::WatchError("the keepalive stream ended".to_owned());
        let answer = self.stream.message().await?.ok_or_else(ended)?;
        Ok(wire::seconds(answer.ttl()))
    }
}
