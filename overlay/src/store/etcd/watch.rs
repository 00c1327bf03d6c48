//! All watches of one store on one stream, each with an id that we choose.
//!
//! A router task owns the stream. When the stream ends, every watch on it is told so, and the next one opens a new
//! stream; resuming is the caller's. Fragments are put together, so that a revision is delivered whole or not at all.
//! A watch whose items are not taken is dropped, so that it holds up no other. Must not ask for progress: up to etcd
//! 3.4.24 the answer may overtake events.

use std::{sync::Arc, time::Duration};

use etcd_client::{WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use futures::StreamExt as _;
use tokio::{
    sync::{
        Mutex,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::{MissedTickBehavior, timeout},
};

use self::routes::{Opening, Routes};
use super::{
    LARGEST_MESSAGE,
    endpoints::{Asked, Endpoints},
};
use crate::store::{StoreError, Watch, WatchRequest};

mod routes;

/// How many items of one watch may wait to be taken.
const QUEUE: usize = 128;
/// How many watches may wait to be opened.
const OPENINGS: usize = 256;
/// How long a full queue may hold up the stream.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often watches are looked for that were dropped.
const SWEEP: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Watches {
    endpoints: Arc<Endpoints>,
    router: Mutex<Option<mpsc::Sender<Opening>>>,
}

impl Watches {
    pub(super) fn new(endpoints: Arc<Endpoints>) -> Self {
        Self { endpoints, router: Mutex::new(None) }
    }

    /// Begins a watch, on the stream that is open or on a new one.
    pub(super) async fn open(&self, request: WatchRequest) -> Result<Watch, StoreError> {
        let (items, watch) = mpsc::channel(QUEUE);
        let (confirm, answer) = oneshot::channel();
        self.place(Opening { request, items, confirm }).await?;
        match timeout(self.endpoints.timing.call, answer).await {
            Ok(Ok(Ok(()))) => Ok(Watch::new(watch)),
            Ok(Ok(Err(reason))) => Err(StoreError::Refused { reason }),
            Ok(Err(_)) => Err(self.unavailable("the watch stream ended")),
            Err(_) => Err(self.unavailable("the watch was not confirmed in time")),
        }
    }

    async fn place(&self, opening: Opening) -> Result<(), StoreError> {
        let mut router = self.router.lock().await;
        let opening = match router.as_ref() {
            None => opening,
            Some(open) => match open.try_send(opening) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Closed(opening)) => opening,
                Err(TrySendError::Full(_)) => return Err(self.unavailable("too many watches are being opened")),
            },
        };
        *router = Some(self.start(opening).await?);
        Ok(())
    }

    /// Opens a stream with its first watch.
    async fn start(&self, opening: Opening) -> Result<mpsc::Sender<Opening>, StoreError> {
        let stream = self.endpoints.call(Asked::default(), |member, client| {
            let (key, options) = watch_options(routes::FIRST_ID, &opening.request);
            async move {
                let mut watches = client.watch_client().max_decoding_message_size(LARGEST_MESSAGE);
                Ok((member, watches.watch(key, Some(options)).await?))
            }
        });
        let (member, stream) = stream.await?;
        let (requests, responses) = stream.split();
        let (open, openings) = mpsc::channel(OPENINGS);
        let endpoints = Arc::clone(&self.endpoints);
        let mut router = Router { endpoints, member, requests, openings, routes: Routes::default() };
        router.routes.add(opening);
        tokio::spawn(router.run(responses));
        Ok(open)
    }

    fn unavailable(&self, reason: &str) -> StoreError {
        StoreError::Unavailable { endpoint: self.endpoints.current_url(), reason: reason.to_owned() }
    }
}

fn watch_options(id: i64, request: &WatchRequest) -> (Vec<u8>, WatchOptions) {
    let options = WatchOptions::new()
        .with_range(request.range.end.clone())
        .with_start_revision(request.from.max(1))
        .with_watch_id(id)
        .with_progress_notify()
        .with_fragment();
    (request.range.start.clone(), options)
}

/// Owns one stream: its requests, and who gets its responses.
struct Router {
    endpoints: Arc<Endpoints>,
    member: usize,
    requests: WatchRequestSender,
    openings: mpsc::Receiver<Opening>,
    routes: Routes,
}

impl Router {
    async fn run(mut self, mut responses: WatchResponseStream) {
        let mut sweeps = tokio::time::interval(SWEEP);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reason = loop {
            let done = tokio::select! {
                response = responses.next() => match response {
                    Some(Ok(response)) => self.hand_out(response).await,
                    Some(Err(error)) => Err(error.to_string()),
                    None => Err("the server ended the watch stream".to_owned()),
                },
                Some(opening) = self.openings.recv() => self.create(opening).await,
                _ = sweeps.tick() => self.sweep().await,
            };
            match done {
                Ok(()) if self.openings.is_closed() && self.routes.is_empty() => return,
                Ok(()) => {}
                Err(reason) => break reason,
            }
        };
        self.endpoints.failed(self.member, &reason);
        let reason = format!("{}: {reason}", self.endpoints.url(self.member));
        self.routes.close_all(&reason);
    }

    async fn create(&mut self, opening: Opening) -> Result<(), String> {
        let (key, options) = watch_options(self.routes.next_id(), &opening.request);
        self.routes.add(opening);
        let sent = timeout(self.endpoints.timing.call, self.requests.watch(key, Some(options))).await;
        sent.map_err(|_| "the watch stream is stuck".to_owned())?.map_err(|error| error.to_string())
    }

    async fn hand_out(&mut self, response: WatchResponse) -> Result<(), String> {
        let Some((id, item)) = self.routes.receive(&response) else { return Ok(()) };
        let Some(route) = self.routes.get(id) else { return Ok(()) };
        match timeout(PATIENCE, route.items.send(item)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => self.cancel(id).await,
            Err(_) => {
                tracing::warn!(id, "a watch does not take its items and is dropped");
                self.cancel(id).await
            }
        }
    }

    async fn sweep(&mut self) -> Result<(), String> {
        for id in self.routes.abandoned() {
            self.cancel(id).await?;
        }
        Ok(())
    }

    async fn cancel(&mut self, id: i64) -> Result<(), String> {
        self.routes.remove(id);
        let sent = timeout(self.endpoints.timing.call, self.requests.cancel(id)).await;
        sent.map_err(|_| "the watch stream is stuck".to_owned())?.map_err(|error| error.to_string())
    }
}
