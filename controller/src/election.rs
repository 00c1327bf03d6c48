//! Which controller leads: the one whose candidacy is the oldest that exists.
//!
//! Each candidate puts a key on a lease of its own and waits for the key just before its own, so that the end of one
//! leader wakes one candidate. Leading rests on the key's existence, which every write compares, never on this belief.

use std::time::Duration;

use rand::{RngExt, rngs::StdRng};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;
use weft_overlay::{
    claims::Leadership,
    keys::{Key, KeyRange, Keyspace},
    store::{Event, Store, StoreError, Watch, WatchItem, WatchRequest, list_all},
    txn::{Compare, Op, Revision, Txn},
};

/// How long a leader that fell silent leads on. A failover takes little longer.
const TTL: Duration = Duration::from_secs(10);

/// How long to wait after the store gave no answer; spread by a half.
const RETRY: Duration = Duration::from_secs(1);

/// A won election.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    pub(crate) leadership: Leadership,
    pub(crate) lease: i64,
}

impl Seat {
    /// Keeps the lease alive; returns when it has ended, or when the store was silent for as long as it lives.
    pub(crate) async fn hold<S: Store>(&self, store: &S) -> &'static str {
        let mut renewed = Instant::now();
        loop {
            sleep(TTL / 4).await;
            match store.keep_alive(self.lease).await {
                Ok(left) if left.is_zero() => return "the lease has ended",
                Ok(_) => renewed = Instant::now(),
                Err(error) => debug!(error = %error, "the lease of the leadership was not renewed"),
            }
            if renewed.elapsed() > TTL {
                return "the store is silent";
            }
        }
    }
}

/// Waits until this controller leads.
pub(crate) async fn campaign<S: Store>(store: &S, keys: &Keyspace, rng: &mut StdRng) -> Seat {
    loop {
        match stand(store, keys).await {
            Ok(Some(seat)) => return seat,
            Ok(None) => debug!("the candidacy has ended before its turn; standing again"),
            Err(error) => debug!(error = %error, "cannot stand for election yet"),
        }
        sleep(RETRY.mul_f64(rng.random_range(0.5..1.5))).await;
    }
}

/// Stands once; `None` when the candidacy ended while waiting.
async fn stand<S: Store>(store: &S, keys: &Keyspace) -> Result<Option<Seat>, StoreError> {
    let lease = store.grant(TTL).await?.id;
    let key = keys.encode(&Key::Election(lease));
    let put = Op::Put { key: key.clone(), value: b"{\"v\":1}".to_vec(), lease: Some(lease) };
    let txn = Txn { compares: vec![Compare::Absent(key.clone())], then: vec![put], or_else: Vec::new() };
    // Refused: an attempt whose answer was lost had succeeded. Either way the list shows it.
    store.txn(txn).await?;
    loop {
        let page = list_all(store, keys.election(), true).await?;
        let Some(own) = page.kvs.iter().find(|kv| kv.key == key) else { return Ok(None) };
        let create_revision = own.create_revision;
        let before = page.kvs.iter().filter(|kv| kv.create_revision < create_revision);
        let Some(rival) = before.max_by_key(|kv| kv.create_revision) else {
            return Ok(Some(Seat { leadership: Leadership { key, create_revision }, lease }));
        };
        if !await_end(store, &rival.key, page.revision, lease).await? {
            return Ok(None);
        }
    }
}

/// Waits until a rival's key may have ended; whether our own lease still lives.
async fn await_end<S: Store>(store: &S, key: &[u8], since: Revision, lease: i64) -> Result<bool, StoreError> {
    let mut end = key.to_vec();
    end.push(0);
    let range = KeyRange { start: key.to_vec(), end };
    let mut watch = store.watch(WatchRequest { range, from: since + 1 }).await?;
    let mut renew_at = Instant::now() + TTL / 4;
    loop {
        tokio::select! {
            biased;
            // Both cancel-safe.
            () = sleep_until(renew_at) => {
                if store.keep_alive(lease).await?.is_zero() {
                    return Ok(false);
                }
                renew_at = Instant::now() + TTL / 4;
            }
            over = ended(&mut watch) => if over { return Ok(true) },
        }
    }
}

/// Whether what a watch says next is a reason to look again.
async fn ended(watch: &mut Watch) -> bool {
    match watch.next().await {
        WatchItem::Events { events, .. } => events.iter().any(|event| matches!(event, Event::Delete { .. })),
        WatchItem::Progress { .. } => false,
        WatchItem::Compacted { .. } | WatchItem::Closed { .. } => true,
    }
}
