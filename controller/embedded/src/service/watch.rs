//! Watch.

use std::time::Duration;

use etcd_client::proto::{PbWatchRequest, PbWatchResponse, PbWatchService};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::{engine::Engine, watch};

#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) engine: Engine,
    pub(crate) progress_every: Duration,
}

#[async_trait]
impl PbWatchService for Watch {
    type WatchStream = ReceiverStream<Result<PbWatchResponse, Status>>;

    async fn watch(&self, request: Request<Streaming<PbWatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let outbox = watch::serve(self.engine.shared.clone(), request.into_inner(), self.progress_every);
        Ok(Response::new(ReceiverStream::new(outbox)))
    }
}
