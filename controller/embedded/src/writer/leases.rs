//! The writer's part of leases: granting, renewing, ending, and what is told about them.

use std::time::Duration;

use etcd_client::proto::{
    PbDeleteRequest, PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveResponse, PbLeaseRevokeResponse,
    PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse,
};

use super::{Pending, Writer};
use crate::{
    authority::Caller,
    disk::LeaseChange,
    draft::{self, Draft, Undo},
    fault::{self, Fault},
    header,
    mvcc::{Mvcc, Revision},
    refusal::Refusal,
};

impl Writer {
    pub(super) fn grant(
        &mut self,
        pending: &mut Pending,
        request: &PbLeaseGrantRequest,
        now: Duration,
    ) -> Result<PbLeaseGrantResponse, Refusal> {
        let id = if request.id == 0 { self.free_lease_id() } else { request.id };
        let ttl = self.leases.admit(id, request.ttl)?;
        draft::grant(&mut self.leases, (id, ttl), now, &mut pending.undo);
        pending.batch.leases.push(LeaseChange::Granted { id, ttl });
        Ok(PbLeaseGrantResponse { header: None, id, ttl, error: String::new() })
    }

    pub(super) fn free_lease_id(&self) -> i64 {
        loop {
            let id = rand::random_range(1..=i64::MAX);
            if self.leases.find(id).is_none() {
                return id;
            }
        }
    }

    pub(super) fn revoke(
        &mut self,
        mvcc: &mut Mvcc,
        pending: &mut Pending,
        caller: &Caller,
        id: i64,
    ) -> Result<PbLeaseRevokeResponse, Refusal> {
        if self.leases.find(id).is_none() {
            return Err(Refusal::LeaseNotFound);
        }
        self.authority.check_lease(caller, mvcc, &self.leases, id)?;
        self.end_lease(mvcc, pending, id);
        Ok(PbLeaseRevokeResponse { header: header::of_part(mvcc.applied) })
    }

    pub(super) fn end_lease(&mut self, mvcc: &mut Mvcc, pending: &mut Pending, id: i64) {
        if fault::has(Fault::RevokeInSteps) {
            for key in self.leases.find(id).map(|lease| lease.keys.clone()).unwrap_or_default() {
                let mut draft = Draft::new(mvcc, &mut self.leases);
                drop(draft.delete(&PbDeleteRequest { key: key.to_vec(), ..PbDeleteRequest::default() }));
                pending.batch.records.extend(draft.close(&mut pending.undo));
            }
        }
        let mut draft = Draft::new(mvcc, &mut self.leases);
        draft.end_lease(id);
        pending.batch.records.extend(draft.close(&mut pending.undo));
        if let Some(lease) = self.leases.remove(id) {
            pending.undo.push(Undo::Ended(id, lease));
            pending.batch.leases.push(LeaseChange::Ended { id });
        }
    }

    /// A lease whose time is over is not revived: it is ended, and the answer says so once that is durable.
    pub(super) fn keep_alive(
        &mut self,
        mvcc: &mut Mvcc,
        pending: &mut Pending,
        id: i64,
        now: Duration,
    ) -> PbLeaseKeepAliveResponse {
        let ttl = self.leases.renew(id, now);
        if ttl.is_none() && self.leases.find(id).is_some() {
            self.end_lease(mvcc, pending, id);
        }
        PbLeaseKeepAliveResponse { header: header::of_part(mvcc.applied), id, ttl: ttl.unwrap_or_default() }
    }

    pub(super) fn time_to_live(
        &self,
        revision: Revision,
        request: &PbLeaseTimeToLiveRequest,
        now: Duration,
    ) -> PbLeaseTimeToLiveResponse {
        let header = header::of_part(revision);
        let Some(lease) = self.leases.find(request.id) else {
            return PbLeaseTimeToLiveResponse { header, id: request.id, ttl: -1, ..Default::default() };
        };
        let keys = if request.keys { lease.keys.iter().map(|key| key.to_vec()).collect() } else { Vec::new() };
        PbLeaseTimeToLiveResponse { header, id: request.id, ttl: lease.remaining(now), granted_ttl: lease.ttl, keys }
    }
}

pub(super) fn with_revision(mut granted: PbLeaseGrantResponse, revision: Revision) -> PbLeaseGrantResponse {
    granted.header = header::of_part(revision);
    granted
}
