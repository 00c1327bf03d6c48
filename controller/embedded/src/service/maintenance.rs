//! Maintenance: how the store is.

use etcd_client::{
    AlarmType,
    proto::{
        PbAlarmMember, PbAlarmRequest, PbAlarmResponse, PbDefragmentRequest, PbDefragmentResponse, PbDowngradeRequest,
        PbDowngradeResponse, PbHashKvRequest, PbHashKvResponse, PbHashRequest, PbHashResponse, PbMaintenanceService,
        PbMoveLeaderRequest, PbMoveLeaderResponse, PbSnapshotRequest, PbSnapshotResponse, PbStatusRequest,
        PbStatusResponse,
    },
};
use tokio_stream::Empty;
use tonic::{Request, Response, Status, async_trait};

use crate::{engine::Engine, header::TERM};

/// The version of etcd whose behaviour this store has.
const BEHAVES_AS: &str = "3.4.23";

#[derive(Debug)]
pub(crate) struct Maintenance {
    pub(crate) engine: Engine,
}

#[async_trait]
impl PbMaintenanceService for Maintenance {
    /// A full disk shows as etcd shows it. It ends by itself when there is space, so there is nothing to disarm.
    async fn alarm(&self, _: Request<PbAlarmRequest>) -> Result<Response<PbAlarmResponse>, Status> {
        let shared = &self.engine.shared;
        let alarm = PbAlarmMember { member_id: shared.identity.member, alarm: AlarmType::Nospace as i32 };
        let alarms = if shared.is_full() { vec![alarm] } else { Vec::new() };
        Ok(Response::new(PbAlarmResponse { header: shared.identity.header(shared.visible()), alarms }))
    }

    async fn status(&self, _: Request<PbStatusRequest>) -> Result<Response<PbStatusResponse>, Status> {
        let shared = &self.engine.shared;
        let revision = shared.visible();
        let size = i64::try_from(shared.size()).unwrap_or(i64::MAX);
        let index = revision.cast_unsigned();
        Ok(Response::new(PbStatusResponse {
            header: shared.identity.header(revision),
            version: BEHAVES_AS.to_owned(),
            db_size: size,
            leader: shared.identity.member,
            raft_index: index,
            raft_term: TERM,
            raft_applied_index: index,
            db_size_in_use: size,
            ..PbStatusResponse::default()
        }))
    }

    /// Nothing to do: space that compaction frees is used again. etcd answers without a header, too.
    async fn defragment(&self, _: Request<PbDefragmentRequest>) -> Result<Response<PbDefragmentResponse>, Status> {
        Ok(Response::new(PbDefragmentResponse { header: None }))
    }

    async fn hash(&self, _: Request<PbHashRequest>) -> Result<Response<PbHashResponse>, Status> {
        let shared = &self.engine.shared;
        let (hash, _) = self.engine.hash(0)?;
        Ok(Response::new(PbHashResponse { header: shared.identity.header(shared.visible()), hash }))
    }

    async fn hash_kv(&self, request: Request<PbHashKvRequest>) -> Result<Response<PbHashKvResponse>, Status> {
        let shared = &self.engine.shared;
        let (hash, compact_revision) = self.engine.hash(request.into_inner().revision)?;
        let header = shared.identity.header(shared.visible());
        Ok(Response::new(PbHashKvResponse { header, hash, compact_revision, ..PbHashKvResponse::default() }))
    }

    type SnapshotStream = Empty<Result<PbSnapshotResponse, Status>>;

    async fn snapshot(&self, _: Request<PbSnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(Status::unimplemented("this store has no etcd snapshots; run `weft store backup` where it runs"))
    }

    async fn move_leader(&self, _: Request<PbMoveLeaderRequest>) -> Result<Response<PbMoveLeaderResponse>, Status> {
        Err(Status::unimplemented("this store is one server; there is nobody to lead in its place"))
    }

    async fn downgrade(&self, _: Request<PbDowngradeRequest>) -> Result<Response<PbDowngradeResponse>, Status> {
        Err(Status::unimplemented("this store's version is weft's; install another version of weft"))
    }
}
