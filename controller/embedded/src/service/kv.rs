//! KV.

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvService, PbPutRequest,
    PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse, PbTxnRequest, PbTxnResponse,
};
use tokio_stream::Empty;
use tonic::{Request, Response, Status, async_trait};

use super::Administrators;
use crate::engine::Engine;

#[derive(Debug)]
pub(crate) struct Kv {
    pub(crate) engine: Engine,
    pub(crate) administrators: Administrators,
}

#[async_trait]
impl PbKvService for Kv {
    async fn range(&self, request: Request<PbRangeRequest>) -> Result<Response<PbRangeResponse>, Status> {
        Ok(Response::new(self.engine.range(request.into_inner()).await?))
    }

    type RangeStreamStream = Empty<Result<PbRangeStreamResponse, Status>>;

    async fn range_stream(&self, _: Request<PbRangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("this store has no RangeStream; use Range with a limit and go on after the last key"))
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        let caller = self.administrators.caller(&request)?;
        Ok(Response::new(self.engine.put(caller, request.into_inner()).await?))
    }

    async fn delete_range(&self, request: Request<PbDeleteRequest>) -> Result<Response<PbDeleteResponse>, Status> {
        let caller = self.administrators.caller(&request)?;
        Ok(Response::new(self.engine.delete(caller, request.into_inner()).await?))
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        let caller = self.administrators.caller(&request)?;
        Ok(Response::new(self.engine.txn(caller, request.into_inner()).await?))
    }

    async fn compact(&self, request: Request<PbCompactionRequest>) -> Result<Response<PbCompactionResponse>, Status> {
        let caller = self.administrators.caller(&request)?;
        Ok(Response::new(self.engine.compact(caller, request.into_inner()).await?))
    }
}
