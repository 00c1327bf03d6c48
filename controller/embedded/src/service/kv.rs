//! KV. A list is not made as a message: the list itself goes with an empty one, which [`send_lists`] puts it in place
//! of when it is sent.

use axum::body::Body;
use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvService, PbPutRequest,
    PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse, PbTxnRequest, PbTxnResponse,
};
use tokio_stream::Empty;
use tonic::{Request, Response, Status, async_trait};

use super::Administrators;
use crate::{engine::Engine, list::List};

/// Sends the list that goes with a response, if there is one.
pub(crate) async fn send_lists(mut response: http::Response<Body>) -> http::Response<Body> {
    match response.extensions_mut().remove::<List>() {
        Some(list) => response.map(|_| Body::new(list.pieces())),
        None => response,
    }
}

#[derive(Debug)]
pub(crate) struct Kv {
    pub(crate) engine: Engine,
    pub(crate) administrators: Administrators,
}

#[async_trait]
impl PbKvService for Kv {
    async fn range(&self, request: Request<PbRangeRequest>) -> Result<Response<PbRangeResponse>, Status> {
        let list = self.engine.range(request.get_ref())?;
        let mut response = Response::new(PbRangeResponse::default());
        response.extensions_mut().insert(list);
        Ok(response)
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
