//! Upkeep of the allocator: what nobody waits for.
//!
//! Settles endpoints that were given up while it was unknown whether they exist, claims a block before the last address
//! is gone, gives blocks back that are not needed. Each round starts from what is known now; a failure is tried again in
//! the next one.

use std::{sync::Arc, sync::PoisonError, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{debug, info};
use weft_ipam::Block;
use weft_overlay::{
    claims::{BlockReleased, DeleteEndpoint, EndpointDeleted, ReleaseBlock, Stored, Token},
    id::NetworkId,
    keys::Key,
    model::{BlockRecord, EndpointIndexRecord, EndpointRecord, NetworkSpec, NetworkState},
    store::Store,
};

use super::{AllocationError, Allocator, NetworkBook, Place, Unwanted, claiming::Purpose};
use crate::control::{registration::Standing, submit::SubmitError};

/// How long a block that was given back stays out of use.
const BLOCK_COOLDOWN: Duration = Duration::from_secs(120);

/// Attempts to renew the lease of a block that was given back late.
const RENEWALS: usize = 3;

impl<S: Store> Allocator<S> {
    /// Does the upkeep; to be polled for as long as the agent runs.
    pub async fn run(self) {
        loop {
            tokio::select! {
                biased;
                // Both cancel-safe: a permit that was not taken stays.
                () = self.inner.wake.notified() => {}
                () = sleep(self.inner.settings.upkeep_every) => {}
            }
            let standing = self.inner.registration.standing.borrow().clone();
            let Some(token) = standing.token() else { continue };
            self.settle(token).await;
            let draining = matches!(standing, Standing::Draining(_));
            for (network, entry) in self.networks() {
                if let Err(error) = self.tend(network, &entry, token, draining).await {
                    debug!(%network, error = %error, "upkeep of addresses put off");
                }
            }
        }
    }

    fn networks(&self) -> Vec<(NetworkId, Arc<NetworkBook>)> {
        let networks = self.inner.networks.lock().unwrap_or_else(PoisonError::into_inner);
        networks.iter().map(|(network, entry)| (*network, entry.clone())).collect()
    }

    async fn settle(&self, token: Token) {
        let list = || self.inner.unwanted.lock().unwrap_or_else(PoisonError::into_inner);
        let unwanted = list().clone();
        for one in unwanted {
            match self.settle_one(token, &one).await {
                Ok(true) => {
                    let now = self.now();
                    one.book.with(|book| book.free(one.address, one.id, now));
                    list().retain(|other| other.id != one.id);
                }
                Ok(false) => {}
                Err(error) => {
                    debug!(endpoint = %one.id, error = %error, "cannot tell yet whether an endpoint exists");
                }
            }
        }
    }

    /// Whether the endpoint is known not to exist, now and for ever.
    async fn settle_one(&self, token: Token, unwanted: &Unwanted) -> Result<bool, SubmitError> {
        let client = &self.inner.client;
        let index = Key::EndpointIndex(self.inner.node, unwanted.id);
        let endpoint = Key::Endpoint(unwanted.network, unwanted.address);
        let deadline = Instant::now() + self.inner.settings.deadline;
        let no_more_strays = Instant::now() >= unwanted.settled_at;
        let reply = client.read([&index, &endpoint], deadline).await?;
        if client.found::<EndpointIndexRecord>(&reply, &index)?.is_none() {
            return Ok(no_more_strays);
        }
        let stored = client.found::<EndpointRecord>(&reply, &endpoint)?.filter(|e| e.record.id == unwanted.id);
        let Some(endpoint) = stored else { return Ok(false) };
        let claim = DeleteEndpoint { token, network: unwanted.network, endpoint, leave: false };
        match client.submit(&claim, deadline).await? {
            EndpointDeleted::Deleted(_) | EndpointDeleted::AlreadyGone => {
                info!(endpoint = %unwanted.id, network = %unwanted.network, "removed an endpoint that was given up");
                Ok(no_more_strays)
            }
            EndpointDeleted::Changed(_) => Ok(false),
            EndpointDeleted::Fenced(_) => {
                self.inner.registration.recheck();
                Ok(false)
            }
        }
    }

    async fn tend(
        &self,
        network: NetworkId,
        entry: &NetworkBook,
        token: Token,
        draining: bool,
    ) -> Result<(), AllocationError> {
        let now = self.now();
        let deadline = Instant::now() + self.inner.settings.deadline;
        {
            let _gate = entry.gate.lock().await;
            self.read_if_unread(network, entry, deadline).await?;
        }
        let in_use = entry.with(|book| !book.holds().is_empty()).unwrap_or_default();
        let wanting = in_use && !draining && entry.with(|book| book.needs_block(now)).unwrap_or_default();
        if wanting {
            return self.claim_ahead(network, entry, token, deadline).await;
        }
        let settings = &self.inner.settings;
        let surplus = entry.with(|book| {
            let unused = book.idle_since().is_some_and(|since| now.saturating_sub(since) >= settings.idle_age);
            book.surplus(now, settings.return_age, draining || unused)
        });
        self.give_back(network, entry, token, surplus.unwrap_or_default()).await
    }

    async fn claim_ahead(
        &self,
        network: NetworkId,
        entry: &NetworkBook,
        token: Token,
        deadline: Instant,
    ) -> Result<(), AllocationError> {
        let client = &self.inner.client;
        let key = Key::Spec(network);
        let reply = client.read([&key], deadline).await?;
        let spec = client.found::<NetworkSpec>(&reply, &key)?;
        let Some(spec) = spec.filter(|spec| spec.record.state == NetworkState::Active) else { return Ok(()) };
        let place = Place { network, spec: &spec, token, deadline };
        self.claim_block(&place, entry, Purpose::Reserve).await.map(|_| ())
    }

    /// A node that was stopped between taking the lease and giving the block back has used up some of the rest: this
    /// makes it whole. Later nobody renews the lease.
    async fn rest_fully(&self, lease: i64, granted: Instant) {
        if granted.elapsed() < BLOCK_COOLDOWN / 10 {
            return;
        }
        for _ in 0..RENEWALS {
            match self.inner.client.store().keep_alive(lease).await {
                Ok(_) => return,
                Err(error) => debug!(lease, error = %error, "the rest of a block may be shorter"),
            }
        }
    }

    async fn give_back(
        &self,
        network: NetworkId,
        entry: &NetworkBook,
        token: Token,
        surplus: Vec<(Block, Stored<BlockRecord>)>,
    ) -> Result<(), AllocationError> {
        if surplus.is_empty() {
            return Ok(());
        }
        let client = &self.inner.client;
        // Claims of blocks wait: what is given back must not be taken for new at the same time.
        let _gate = entry.gate.lock().await;
        let granted = Instant::now();
        let lease = client.store().grant(BLOCK_COOLDOWN).await;
        let lease = lease.map_err(|error| SubmitError::Unknown { source: Some(error) })?.id;
        for (block, record) in surplus {
            if !entry.with(|book| book.withdraw(block)).unwrap_or_default() {
                continue;
            }
            let deadline = Instant::now() + self.inner.settings.deadline;
            let claim = ReleaseBlock { token, network, block: block.network(), record, cooling_lease: lease };
            let outcome = client.submit(&claim, deadline).await;
            match outcome {
                Ok(BlockReleased::Released) => {
                    info!(%network, %block, "gave an empty block back");
                    self.rest_fully(lease, granted).await;
                }
                refused => {
                    debug!(%network, %block, outcome = ?refused, "a block was not given back");
                    // Whether it is still ours is read from the store.
                    self.invalidate(entry);
                    refused?;
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
