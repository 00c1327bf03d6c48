//! Lease.

use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse, PbLeaseLeasesRequest,
    PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseService, PbLeaseTimeToLiveRequest,
    PbLeaseTimeToLiveResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::Administrators;
use crate::{authority::Caller, engine::Engine};

/// Answers that may wait for a client to read them.
const QUEUE: usize = 16;

#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) engine: Engine,
    pub(crate) administrators: Administrators,
}

#[async_trait]
impl PbLeaseService for Lease {
    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        let caller = self.administrators.caller(&request)?;
        Ok(Response::new(self.engine.grant(caller, request.into_inner()).await?))
    }

    async fn lease_revoke(
        &self,
        request: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        let caller = self.administrators.caller(&request)?;
        Ok(Response::new(self.engine.revoke(caller, request.into_inner().id).await?))
    }

    type LeaseKeepAliveStream = ReceiverStream<Result<PbLeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let caller = self.administrators.caller(&request)?;
        let (outbox, answers) = mpsc::channel(QUEUE);
        tokio::spawn(keep_alive(self.engine.clone(), caller, request.into_inner(), outbox));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        let caller = self.administrators.caller(&request)?;
        Ok(Response::new(self.engine.time_to_live(caller, request.into_inner()).await?))
    }

    async fn lease_leases(
        &self,
        request: Request<PbLeaseLeasesRequest>,
    ) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        let caller = self.administrators.caller(&request)?;
        Ok(Response::new(self.engine.leases(caller).await?))
    }
}

async fn keep_alive(
    engine: Engine,
    caller: Caller,
    mut requests: Streaming<PbLeaseKeepAliveRequest>,
    outbox: mpsc::Sender<Result<PbLeaseKeepAliveResponse, Status>>,
) {
    while let Ok(Some(request)) = requests.message().await {
        let answer = engine.keep_alive(caller.clone(), request.id).await.map_err(Status::from);
        let failed = answer.is_err();
        if outbox.send(answer).await.is_err() || failed {
            return;
        }
    }
}
