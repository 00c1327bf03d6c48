//! Watches of one stream: each reads the common history at its own pace, so that a slow one holds up nobody and misses
//! nothing; one that compaction overtakes is told so and ends.
//!
//! Everything that a stream says goes through one queue in order, progress too. A revision is never split between
//! messages, unless the client asked for fragments.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use etcd_client::{
    EventType,
    proto::{PbEvent, PbWatchRequest, PbWatchRequestUnion, PbWatchResponse},
};
use prost::Message;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use crate::{
    fault::{self, Fault},
    limits,
    mvcc::{Mvcc, Revision, Span, Version},
    shared::Shared,
};

/// Messages that may wait for a client to read them; its own pace, and little memory.
const QUEUE: usize = 4;

const NOPUT: i32 = 0;
const NODELETE: i32 = 1;

/// The id in answers that are about no watch in particular.
const NO_WATCH: i64 = -1;

pub(crate) type Outbox = mpsc::Receiver<Result<PbWatchResponse, Status>>;

/// Serves a stream of requests until either side ends it.
pub(crate) fn serve<R>(shared: Arc<Shared>, requests: R, progress_every: Duration) -> Outbox
where
    R: Stream<Item = Result<PbWatchRequest, Status>> + Send + Unpin + 'static,
{
    let (outbox, messages) = mpsc::channel(QUEUE);
    let visible = shared.subscribe();
    let mut progress = interval_at(Instant::now() + progress_every, progress_every);
    progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stream = WatchStream { shared, outbox, watches: BTreeMap::new(), next_id: 0, progress_asked: false };
    tokio::spawn(stream.run(requests, visible, progress));
    messages
}

/// The client has gone; nothing can be said any more.
struct Gone;

struct WatchStream {
    shared: Arc<Shared>,
    outbox: mpsc::Sender<Result<PbWatchResponse, Status>>,
    watches: BTreeMap<i64, Watching>,
    next_id: i64,
    progress_asked: bool,
}

/// One watch.
#[derive(Debug)]
struct Watching {
    span: Span,
    /// The first revision that was not looked at.
    next: Revision,
    puts: bool,
    deletes: bool,
    prev_kv: bool,
    fragment: bool,
    progress: bool,
    /// Whether something was said since progress was last due.
    spoke: bool,
}

/// A change that a watch wants, and what was there before its revision.
type Change = (Arc<Version>, Option<Arc<Version>>);

/// What a watch has to say.
enum Due {
    /// Changes, as of the store's revision then.
    Changes(Vec<Change>, Revision),
    /// Its place in history is gone.
    Compacted(Revision),
}

impl WatchStream {
    async fn run<R>(mut self, mut requests: R, mut visible: watch::Receiver<Revision>, mut progress: Interval)
    where
        R: Stream<Item = Result<PbWatchRequest, Status>> + Send + Unpin,
    {
        loop {
            // Before looking: what comes after that wakes us up again.
            visible.mark_unchanged();
            let Ok(behind) = self.say_what_is_due().await else { return };
            let outcome = tokio::select! {
                biased;
                // All cancel-safe.
                request = requests.next() => match request {
                    Some(Ok(request)) => self.carry_out(request).await,
                    Some(Err(_)) | None => return,
                },
                () = std::future::ready(()), if behind => Ok(()),
                _ = progress.tick() => self.report_progress().await,
                changed = visible.changed() => changed.map_err(|_| Gone),
                () = self.outbox.closed() => Err(Gone),
            };
            if outcome.is_err() {
                return;
            }
        }
    }

    /// Lets every watch that is behind say one message; answers whether one still is.
    async fn say_what_is_due(&mut self) -> Result<bool, Gone> {
        let mut behind = false;
        let ids: Vec<i64> = self.watches.keys().copied().collect();
        for id in ids {
            let Some(watching) = self.watches.get_mut(&id) else { continue };
            let due = {
                let mvcc = self.shared.read();
                let visible = self.shared.visible();
                let due = watching.look(&mvcc, visible);
                behind |= watching.next <= visible;
                due
            };
            match due {
                None => {}
                Some(Due::Changes(changes, revision)) => {
                    watching.spoke = true;
                    let (events, fragment) = (watching.events(&changes), watching.fragment);
                    self.say_events(id, events, (revision, fragment)).await?;
                }
                Some(Due::Compacted(revision)) => {
                    self.watches.remove(&id);
                    let mut message = self.message(id, self.shared.visible());
                    (message.canceled, message.compact_revision) = (true, revision);
                    self.say(message).await?;
                }
            }
        }
        if self.progress_asked && !behind {
            self.progress_asked = false;
            self.say(self.message(NO_WATCH, self.seen())).await?;
        }
        Ok(behind)
    }

    /// Up to where every watch has looked.
    fn seen(&self) -> Revision {
        let visible = self.shared.visible();
        self.watches.values().map(|watching| watching.next - 1).fold(visible, Revision::min)
    }

    async fn carry_out(&mut self, request: PbWatchRequest) -> Result<(), Gone> {
        match request.request_union {
            Some(PbWatchRequestUnion::CreateRequest(create)) => {
                let visible = self.shared.visible();
                let next = if create.start_revision == 0 { visible + 1 } else { create.start_revision };
                // The smallest key stands for none.
                let key = if create.key.is_empty() { vec![0] } else { create.key };
                let watching = Watching {
                    span: Span::new(&key, &create.range_end),
                    next,
                    puts: !create.filters.contains(&NOPUT),
                    deletes: !create.filters.contains(&NODELETE),
                    prev_kv: create.prev_kv,
                    fragment: create.fragment,
                    progress: create.progress_notify,
                    spoke: true,
                };
                self.create(create.watch_id, watching, visible).await
            }
            Some(PbWatchRequestUnion::CancelRequest(cancel)) => {
                if self.watches.remove(&cancel.watch_id).is_none() {
                    return Ok(());
                }
                let mut message = self.message(cancel.watch_id, self.shared.visible());
                message.canceled = true;
                self.say(message).await
            }
            Some(PbWatchRequestUnion::ProgressRequest(_)) => {
                self.progress_asked = true;
                if fault::has(Fault::ProgressFirst) {
                    self.say(self.message(NO_WATCH, self.shared.visible())).await?;
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, asked: i64, watching: Watching, visible: Revision) -> Result<(), Gone> {
        let (id, reason) = match self.admit(asked, &watching) {
            Ok(id) => {
                self.watches.insert(id, watching);
                (id, "")
            }
            Err(reason) => (NO_WATCH, reason),
        };
        let mut message = self.message(id, visible);
        message.created = true;
        message.canceled = !reason.is_empty();
        message.cancel_reason = reason.to_owned();
        self.say(message).await
    }

    fn admit(&mut self, asked: i64, watching: &Watching) -> Result<i64, &'static str> {
        if let Span::From(start, Some(end)) = &watching.span
            && start >= end
        {
            return Err("mvcc: watcher range is empty");
        }
        if self.watches.len() >= limits::WATCHES_PER_STREAM {
            return Err("etcdserver: too many watches on one stream; open another");
        }
        if asked != 0 {
            return if self.watches.contains_key(&asked) {
                Err("mvcc: duplicate watch ID provided on the WatchStream")
            } else {
                Ok(asked)
            };
        }
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Ok(self.next_id - 1)
    }

    /// Tells those who asked for it, and heard nothing, how far their watch is.
    async fn report_progress(&mut self) -> Result<(), Gone> {
        let visible = self.shared.visible();
        let mut due = Vec::new();
        for (id, watching) in self.watches.iter_mut().filter(|(_, watching)| watching.progress) {
            // One that waits for a future revision, or is behind, has no progress to report.
            let quiet = !std::mem::replace(&mut watching.spoke, false);
            if quiet && watching.next <= visible + 1 && watching.next > 1 {
                due.push((*id, watching.next - 1));
            }
        }
        for (id, revision) in due {
            self.say(self.message(id, revision)).await?;
        }
        Ok(())
    }

    async fn say_events(
        &self,
        id: i64,
        events: Vec<PbEvent>,
        (revision, fragment): (Revision, bool),
    ) -> Result<(), Gone> {
        let mut rest = events.into_iter().peekable();
        while rest.peek().is_some() {
            let mut message = self.message(id, revision);
            let mut size = 0;
            while let Some(event) = rest.next_if(|event| {
                size += event.encoded_len();
                let whole = !fragment && !fault::has(Fault::SplitRevision);
                whole || message.events.is_empty() || fragment && size <= limits::FRAGMENT_BYTES
            }) {
                message.events.push(event);
            }
            message.fragment = fragment && rest.peek().is_some();
            self.say(message).await?;
        }
        Ok(())
    }

    fn message(&self, watch_id: i64, revision: Revision) -> PbWatchResponse {
        PbWatchResponse { header: self.shared.identity.header(revision), watch_id, ..PbWatchResponse::default() }
    }

    async fn say(&self, message: PbWatchResponse) -> Result<(), Gone> {
        if fault::has(Fault::DropForSlow) && !message.events.is_empty() {
            drop(self.outbox.try_send(Ok(message)));
            return Ok(());
        }
        self.outbox.send(Ok(message)).await.map_err(|_| Gone)
    }
}

impl Watching {
    /// Looks at history from where it was: at most a message's worth.
    fn look(&mut self, mvcc: &Mvcc, visible: Revision) -> Option<Due> {
        if self.next > visible {
            return None;
        }
        if self.next < mvcc.compacted {
            return Some(Due::Compacted(mvcc.compacted));
        }
        let mut changes = Vec::new();
        let mut bytes = 0;
        let mut seen = visible;
        for record in mvcc.records(self.next, visible) {
            for version in record.changes.iter().filter(|version| self.wants(version)) {
                bytes += version.key.len() + version.value.as_ref().map_or(0, |value| value.len());
                let prev = self.prev_kv.then(|| previous(mvcc, version)).flatten();
                changes.push((Arc::clone(version), prev));
            }
            if changes.len() >= limits::EVENTS_PER_MESSAGE || bytes >= limits::WATCH_MESSAGE_BYTES {
                seen = record.revision;
                break;
            }
        }
        self.next = seen + 1;
        if changes.is_empty() { None } else { Some(Due::Changes(changes, visible)) }
    }

    fn wants(&self, version: &Version) -> bool {
        let wanted = if version.is_deletion() { self.deletes } else { self.puts };
        wanted && self.span.contains(&version.key)
    }

    fn events(&self, changes: &[Change]) -> Vec<PbEvent> {
        let event = |(version, prev): &Change| {
            let mut kv = version.message();
            kv.mod_revision = version.modified;
            let kind = if version.is_deletion() { EventType::Delete } else { EventType::Put };
            PbEvent { r#type: kind as i32, kv: Some(kv), prev_kv: prev.as_ref().map(|prev| prev.message()) }
        };
        changes.iter().map(event).collect()
    }
}

/// What a key was before the revision of a change; unknown once that is compacted. To a creation etcd tells none, even
/// where the key was deleted in the same revision.
fn previous(mvcc: &Mvcc, version: &Version) -> Option<Arc<Version>> {
    let before = version.modified - 1;
    if before < mvcc.compacted || version.created == version.modified {
        None
    } else {
        mvcc.at(&version.key, before).cloned()
    }
}
