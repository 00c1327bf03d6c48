//! Cluster: one member, for ever.

use etcd_client::proto::{
    PbClusterService, PbMember, PbMemberAddRequest, PbMemberAddResponse, PbMemberListRequest, PbMemberListResponse,
    PbMemberPromoteRequest, PbMemberPromoteResponse, PbMemberRemoveRequest, PbMemberRemoveResponse,
    PbMemberUpdateRequest, PbMemberUpdateResponse,
};
use tonic::{Request, Response, Status, async_trait};

use crate::engine::Engine;

#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) engine: Engine,
    pub(crate) name: String,
    pub(crate) client_urls: Vec<String>,
}

fn one_server() -> Status {
    Status::unimplemented(
        "this store is one server and has no members to change; move to etcd with `weft store export`",
    )
}

#[async_trait]
impl PbClusterService for Cluster {
    async fn member_add(&self, _: Request<PbMemberAddRequest>) -> Result<Response<PbMemberAddResponse>, Status> {
        Err(one_server())
    }

    async fn member_remove(
        &self,
        _: Request<PbMemberRemoveRequest>,
    ) -> Result<Response<PbMemberRemoveResponse>, Status> {
        Err(one_server())
    }

    async fn member_update(
        &self,
        _: Request<PbMemberUpdateRequest>,
    ) -> Result<Response<PbMemberUpdateResponse>, Status> {
        Err(one_server())
    }

    async fn member_list(&self, _: Request<PbMemberListRequest>) -> Result<Response<PbMemberListResponse>, Status> {
        let shared = &self.engine.shared;
        let member = PbMember {
            id: shared.identity.member,
            name: self.name.clone(),
            peer_ur_ls: Vec::new(),
            client_ur_ls: self.client_urls.clone(),
            is_learner: false,
        };
        let header = shared.identity.header(shared.visible());
        Ok(Response::new(PbMemberListResponse { header, members: vec![member] }))
    }

    async fn member_promote(
        &self,
        _: Request<PbMemberPromoteRequest>,
    ) -> Result<Response<PbMemberPromoteResponse>, Status> {
        Err(one_server())
    }
}
