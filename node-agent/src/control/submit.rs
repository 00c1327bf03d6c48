//! Carries out claims: sends a transaction until its outcome is known or time is up.
//!
//! A claim reads its outcome from any reply to its transaction, so one whose answer was lost is sent again and nothing is
//! done twice. What is unknown at the deadline is reported as unknown, never as failed.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{SeedableRng, rngs::StdRng};
use thiserror::Error;
use tokio::time::{Instant, sleep_until, timeout_at};
use weft_overlay::{
    claims::{Claim, ReplyError, Stored},
    codec::DecodeError,
    keys::{Key, KeyRange, Keyspace},
    store::{Page, Store, StoreError, list_all},
    txn::{Op, Txn, TxnReply},
};

use super::backoff::Backoff;

/// The store with what is needed to use it: the key space, and randomness for waiting times and ids.
#[derive(Clone)]
pub struct Client<S> {
    store: S,
    keys: Keyspace,
    rng: Arc<Mutex<StdRng>>,
}

impl<S: fmt::Debug> fmt::Debug for Client<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("store", &self.store).field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// Why a claim or a read has no outcome.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// The store did not answer in time. The claim may have been carried out, or may still be.
    #[error(
        "the store gave no answer in time, so the outcome is unknown; try again when `weft status` shows it reachable"
    )]
    Unknown {
        /// What it said last.
        #[source]
        source: Option<StoreError>,
    },
    /// The store said no; nothing was written.
    #[error("the store did not carry out the request")]
    Refused(#[source] StoreError),
    /// Its answer has no meaning.
    #[error(transparent)]
    Reply(#[from] ReplyError),
    /// A stored record is damaged or newer than this program.
    #[error("the store's record {key} cannot be read; `etcdctl get {key}` shows it")]
    Record {
        /// The key.
        key: String,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
}

impl SubmitError {
    /// Whether a write may have been done, or may still be.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}

impl<S: Store> Client<S> {
    /// Wraps a store.
    pub fn new(store: S, keys: Keyspace, rng: StdRng) -> Self {
        Self { store, keys, rng: Arc::new(Mutex::new(rng)) }
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The key space.
    pub fn keys(&self) -> &Keyspace {
        &self.keys
    }

    /// Lets the random numbers be used.
    pub fn with_rng<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        // A panic elsewhere leaves random numbers as good as before.
        draw(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A generator of its own for another task.
    pub fn fork_rng(&self) -> StdRng {
        StdRng::from_rng(&mut *self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Carries out a claim; an answer that was lost is asked for again until the deadline.
    ///
    /// # Errors
    /// [`SubmitError::Unknown`] when no answer came that tells whether it was done.
    pub async fn submit<C: Claim>(&self, claim: &C, deadline: Instant) -> Result<C::Outcome, SubmitError> {
        let reply = self.transact(claim.txn(&self.keys), deadline).await?;
        Ok(claim.outcome(&self.keys, &reply)?)
    }

    /// Carries out a transaction that may be repeated.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub async fn transact(&self, txn: Txn, deadline: Instant) -> Result<TxnReply, SubmitError> {
        let mut backoff = Backoff::default();
        let mut unknown = false;
        loop {
            let error = match timeout_at(deadline, self.store.txn(txn.clone())).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(error)) => Some(error),
                Err(_) => None,
            };
            unknown |= matches!(error, None | Some(StoreError::Unavailable { .. }));
            let retry_at = Instant::now() + self.with_rng(|rng| backoff.failed(rng)).min(LONGEST_PAUSE);
            match error {
                Some(error) if error.is_transient() && retry_at < deadline => sleep_until(retry_at).await,
                Some(error) if !unknown => return Err(SubmitError::Refused(error)),
                source => return Err(SubmitError::Unknown { source }),
            }
        }
    }

    /// Reads some keys as of one revision.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub async fn read<const N: usize>(&self, keys: [&Key; N], deadline: Instant) -> Result<TxnReply, SubmitError> {
        let then = keys.iter().map(|key| Op::Read(self.keys.encode(key))).collect();
        self.transact(Txn { then, ..Txn::default() }, deadline).await
    }

    /// Lists a range as of one revision that includes every write acknowledged before.
    ///
    /// # Errors
    /// As [`Self::submit`]; nothing is written either way.
    pub async fn list(&self, range: KeyRange, deadline: Instant) -> Result<Page, SubmitError> {
        let mut backoff = Backoff::default();
        loop {
            let error = match timeout_at(deadline, list_all(&self.store, range.clone(), true)).await {
                Ok(Ok(page)) => return Ok(page),
                Ok(Err(error)) => error,
                Err(_) => return Err(SubmitError::Unknown { source: None }),
            };
            let again = error.is_transient() || matches!(error, StoreError::Compacted { .. });
            let retry_at = Instant::now() + self.with_rng(|rng| backoff.failed(rng)).min(LONGEST_PAUSE);
            if !again {
                return Err(SubmitError::Refused(error));
            }
            if retry_at >= deadline {
                return Err(SubmitError::Unknown { source: Some(error) });
            }
            sleep_until(retry_at).await;
        }
    }

    /// The record under a key that a reply has read.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn found<T: serde::de::DeserializeOwned>(
        &self,
        reply: &TxnReply,
        key: &Key,
    ) -> Result<Option<Stored<T>>, SubmitError> {
        let key = self.keys.encode(key);
        let decode = |kv| Stored::decode(kv).map_err(|source| unreadable(&key, source));
        reply.found(&key).map(decode).transpose()
    }

    /// The records of a list with their keys; those of another kind are left out.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn records<T, K>(
        &self,
        page: &Page,
        select: impl Fn(Key) -> Option<K>,
    ) -> Result<Vec<(K, Stored<T>)>, SubmitError>
    where
        T: serde::de::DeserializeOwned,
    {
        let mut records = Vec::new();
        for kv in &page.kvs {
            let Some(key) = self.keys.decode(&kv.key).ok().and_then(&select) else { continue };
            let record = Stored::decode(kv).map_err(|source| unreadable(&kv.key, source))?;
            records.push((key, record));
        }
        Ok(records)
    }
}

/// A caller with a deadline of seconds should see the store come back, so the pauses stay below it.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

fn unreadable(key: &[u8], source: DecodeError) -> SubmitError {
    SubmitError::Record { key: String::from_utf8_lossy(key).into_owned(), source }
}
