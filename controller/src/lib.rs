//! The cluster daemon of Weft: it cleans up what nobody else can.
//!
//! One controller leads; it declares nodes lost that were away too long, takes away their endpoints and blocks, finishes
//! the removal of networks, and looks for what was left behind. Nothing that users wait for needs it, so that it may be
//! away for a while, and each of its writes names its leadership, so that one that was paused can do no harm.

use std::{collections::BTreeMap, time::Duration};

use rand::{RngExt, rngs::StdRng};
use thiserror::Error;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};
use weft_overlay::{
    claims::{Claim, Leadership, ReplyError},
    codec::DecodeError,
    keys::{Key, Keyspace},
    model::{RECORD_VERSION, SchemaRecord},
    store::{Store, StoreError},
    txn::{Compare, Op, Txn, TxnReply},
};

mod audit;
mod cluster;
mod deletion;
mod election;
mod fencing;
mod news;
mod reaper;
#[cfg(test)]
mod tests;

/// How patient a controller is.
#[derive(Debug, Clone)]
pub struct ControllerSettings {
    /// How long a node must have given no sign of life, as this controller saw it while leading, to be declared lost.
    pub lost_after: Duration,
    /// Time between two looks at the cluster; spread by a fifth.
    pub pass_every: Duration,
    /// Time between two searches for what was left behind. Only what is found twice is removed.
    pub audit_every: Duration,
}

impl Default for ControllerSettings {
    fn default() -> Self {
        Self {
            lost_after: Duration::from_secs(3600),
            pass_every: Duration::from_secs(2),
            audit_every: Duration::from_secs(1800),
        }
    }
}

/// How long a block that was taken from a lost node stays out of use.
const BLOCK_COOLDOWN: Duration = Duration::from_secs(120);

/// How long the VNI of a network that is gone stays out of use.
const VNI_COOLDOWN: Duration = Duration::from_secs(600);

/// How long to wait after the store gave no answer.
const RETRY: Duration = Duration::from_secs(2);

/// Why a leader could not go on.
#[derive(Debug, Error)]
enum LeadError {
    /// Another controller leads, or nobody.
    #[error("this controller does not lead any more")]
    NotLeader,
    /// The store did not answer, or said no. The next pass tries again.
    #[error("the store did not carry out a request")]
    Store(#[from] StoreError),
    /// Its answer has no meaning.
    #[error(transparent)]
    Reply(#[from] ReplyError),
    /// A stored record is damaged or newer than this program. What depends on it is left alone.
    #[error("the store's record {key} cannot be read; `etcdctl get {key}` shows it")]
    Record {
        /// The key.
        key: String,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
}

/// Runs a controller; to be polled for as long as the process runs, and may be dropped at any time.
pub async fn run<S: Store>(store: S, keys: Keyspace, settings: ControllerSettings, mut rng: StdRng) {
    loop {
        let seat = election::campaign(&store, &keys, &mut rng).await;
        info!(lease = seat.lease, revision = seat.leadership.create_revision, "this controller leads");
        let leader = Leader {
            store: store.clone(),
            keys: keys.clone(),
            leadership: seat.leadership.clone(),
            settings: settings.clone(),
        };
        let ended = tokio::select! {
            biased;
            // Dropping a pass is harmless: each of its writes is complete in itself.
            ended = seat.hold(&store) => ended,
            ended = lead(&leader, &mut rng) => ended,
        };
        warn!(reason = ended, "this controller leads no more");
    }
}

/// The right to clean up, and what it takes.
#[derive(Debug)]
struct Leader<S> {
    store: S,
    keys: Keyspace,
    leadership: Leadership,
    settings: ControllerSettings,
}

async fn lead<S: Store>(leader: &Leader<S>, rng: &mut StdRng) -> &'static str {
    let mut absences = fencing::Absences::default();
    let mut audit = audit::Audit::new(Instant::now() + leader.settings.audit_every);
    let mut schema_written = false;
    let news = news::News::follow(leader.store.clone(), leader.keys.clone());
    let mut failures: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        let pass = async {
            if !schema_written {
                leader.write_schema().await?;
                schema_written = true;
            }
            let cluster = cluster::observe(leader).await?;
            fencing::declare_lost(leader, &cluster, &mut absences).await?;
            reaper::reap_lost(leader, &cluster).await?;
            deletion::finish_deletions(leader, &cluster).await?;
            audit.run_when_due(leader).await
        };
        let wait = match pass.await {
            Ok(()) => {
                failures.clear();
                leader.settings.pass_every
            }
            Err(LeadError::NotLeader) => return "another controller leads, or the lease has ended",
            Err(error) => {
                report(&mut failures, &error);
                RETRY
            }
        };
        tokio::select! {
            biased;
            // Both cancel-safe: news that were not waited for to the end are found by the pass.
            () = sleep(wait.mul_f64(rng.random_range(0.8..1.2))) => {}
            () = news.arrived() => {}
        }
    }
}

/// The first failure of a kind is worth a warning; its repetitions are not.
fn report(failures: &mut BTreeMap<String, u64>, error: &LeadError) {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let count = failures.entry(format!("{error}: {cause}")).or_default();
    *count += 1;
    if *count == 1 {
        warn!(error = %error, cause, "cleaning up put off");
    } else {
        debug!(error = %error, cause, attempt = *count, "cleaning up put off");
    }
}

impl<S: Store> Leader<S> {
    async fn submit<C: Claim>(&self, claim: &C) -> Result<C::Outcome, LeadError> {
        let reply = self.store.txn(claim.txn(&self.keys)).await?;
        Ok(claim.outcome(&self.keys, &reply)?)
    }

    async fn read(&self, then: Vec<Op>) -> Result<TxnReply, LeadError> {
        Ok(self.store.txn(Txn { then, ..Txn::default() }).await?)
    }

    /// The condition that every write of a controller has.
    fn leads(&self) -> Compare {
        Compare::CreatedAt(self.leadership.key.clone(), self.leadership.create_revision)
    }

    async fn write_schema(&self) -> Result<(), LeadError> {
        let key = self.keys.encode(&Key::Schema);
        let record = SchemaRecord { v: RECORD_VERSION, min_reader: RECORD_VERSION, extra: BTreeMap::new() };
        let txn = Txn {
            compares: vec![self.leads(), Compare::Absent(key.clone())],
            then: vec![Op::put(key.clone(), weft_overlay::codec::encode_record(&record))],
            or_else: vec![Op::Read(key), Op::Read(self.leadership.key.clone())],
        };
        let reply = self.store.txn(txn).await?;
        if reply.succeeded || reply.found(&self.leadership.key).is_some() { Ok(()) } else { Err(LeadError::NotLeader) }
    }
}
