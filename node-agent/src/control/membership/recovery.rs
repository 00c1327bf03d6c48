//! Coming back after the controller had given the node up: what is left is kept, what was reaped is made again.
//!
//! Legs come first, because with them the node is a member again and its peers take its frames. An endpoint gets its old
//! addresses if nobody has them by now, else others; its container keeps running either way.

use std::sync::PoisonError;

use tracing::{info, warn};
use weft_overlay::{
    claims::{EndpointUpdated, Stored, Token, UpdateEndpoint},
    id::{EndpointId, NetworkId},
    keys::Key,
    model::{EndpointRecord, MemberRecord, NetworkSpec, NetworkState},
    store::Store,
};

use super::{Joined, Membership, MembershipError, PartState};
use crate::control::{
    allocation::{AllocationError, CommitError, EndpointRequest, Reservation, StandingError},
    registration::Standing,
};

/// Attempts to find an address for an endpoint.
const ATTEMPTS: usize = 8;

/// What became of an endpoint.
#[derive(Debug)]
pub struct Recovered {
    /// Its network.
    pub network: NetworkId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// What became of it.
    pub outcome: RecoveryOutcome,
}

/// What became of an endpoint.
#[derive(Debug)]
pub enum RecoveryOutcome {
    /// It is stored as it was, or was made again at its addresses.
    Kept(Box<Stored<EndpointRecord>>),
    /// Its addresses are taken; it has others, which its container must be given.
    Renumbered(Box<Stored<EndpointRecord>>),
    /// It cannot be made again: its network is gone, or has no address left.
    Gone(MembershipError),
    /// It is not known; to be tried again.
    Unsettled(MembershipError),
}

impl<S: Store> Membership<S> {
    /// Brings this node's memberships and endpoints in line with its present epoch and VTEP; to be called whenever the
    /// epoch has changed, and after the store was replaced, with the endpoints of all containers of this node. May be
    /// repeated.
    ///
    /// # Errors
    /// When the node may not write, or the store does not answer.
    pub async fn recover(&self, containers: &[(NetworkId, EndpointRecord)]) -> Result<Vec<Recovered>, MembershipError> {
        let token = self.standing_token()?;
        self.restore().await?;
        for (network, _) in self.parts() {
            self.inner.allocator.reread_network(network);
        }
        for (network, part) in self.parts() {
            let mut state = part.state.lock().await;
            self.settle(network, &mut state).await?;
            self.recover_leg(network, token, &mut state).await?;
        }
        let mut recovered = Vec::new();
        for (network, record) in containers {
            let outcome = match self.recover_container(*network, token, record).await {
                Ok(outcome) => outcome,
                Err(error) if is_final(&error) => RecoveryOutcome::Gone(error),
                Err(error) => RecoveryOutcome::Unsettled(error),
            };
            recovered.push(Recovered { network: *network, endpoint: record.id, outcome });
        }
        Ok(recovered)
    }

    fn standing_token(&self) -> Result<Token, MembershipError> {
        match &*self.inner.registration.standing.borrow() {
            Standing::Active(token) | Standing::Draining(token) => Ok(*token),
            Standing::Lost => Err(StandingError::Lost(self.inner.identity.name.clone()).into()),
            Standing::Registering { why } => Err(StandingError::NotRegistered(why.clone()).into()),
        }
    }

    /// Makes the leg and the membership what they should be now.
    async fn recover_leg(
        &self,
        network: NetworkId,
        token: Token,
        state: &mut PartState,
    ) -> Result<(), MembershipError> {
        let Some(before) = state.joined.clone() else { return Ok(()) };
        let spec = self.active_spec(network).await?;
        let leg = self.renew_epoch(network, token, &before.leg.record).await?;
        state.joined = match (leg, spec) {
            (Some(leg), Some(_)) => {
                let member = self.renew_member(network, token).await?;
                Some(Joined { leg, member })
            }
            // What is left of it in a network that is being removed is given up as it is.
            (Some(leg), None) => Some(Joined { leg, ..before }),
            (None, None) => None,
            (None, Some(spec)) => {
                info!(%network, "the gateway leg was removed while this node was lost; making it again");
                state.joined = None;
                self.make_leg(network, &spec, Some(&before.leg.record), state).await?;
                return Ok(());
            }
        };
        Ok(())
    }

    async fn recover_container(
        &self,
        network: NetworkId,
        token: Token,
        record: &EndpointRecord,
    ) -> Result<RecoveryOutcome, MembershipError> {
        let Some(spec) = self.active_spec(network).await? else {
            return Ok(RecoveryOutcome::Gone(MembershipError::NetworkGone(network)));
        };
        let _stay = self.join(network, &spec).await?;
        let unsettled = self.inner.unsettled.lock().unwrap_or_else(PoisonError::into_inner).remove(&record.id);
        if unsettled.is_none()
            && let Some(kept) = self.renew_epoch(network, token, record).await?
        {
            return Ok(RecoveryOutcome::Kept(Box::new(kept)));
        }
        let again = self.create_again(network, &spec, record, unsettled).await?;
        let same = (again.record.ipv4, again.record.ipv6) == (record.ipv4, record.ipv6);
        if same {
            info!(%network, endpoint = %record.id, "made an endpoint again that was removed while this node was lost");
            return Ok(RecoveryOutcome::Kept(Box::new(again)));
        }
        warn!(%network, endpoint = %record.id, "an endpoint's addresses were taken while this node was lost; it has others");
        Ok(RecoveryOutcome::Renumbered(Box::new(again)))
    }

    async fn create_again(
        &self,
        network: NetworkId,
        spec: &Stored<NetworkSpec>,
        record: &EndpointRecord,
        mut unsettled: Option<Reservation>,
    ) -> Result<Stored<EndpointRecord>, MembershipError> {
        let name = &spec.record.name;
        let mut request = request_of(record, self.vtep());
        for _ in 0..ATTEMPTS {
            let reserved = match unsettled.take() {
                Some(reservation) => Ok(reservation),
                None => self.inner.allocator.reserve(network, spec, request.clone()).await,
            };
            let mut reservation = match reserved {
                Ok(reservation) => reservation,
                Err(
                    AllocationError::Taken { .. } | AllocationError::Static(_) | AllocationError::NoSuchFamily { .. },
                ) if request.ipv4.is_some() || request.ipv6.is_some() => {
                    (request.ipv4, request.ipv6, request.mac) = (None, None, None);
                    continue;
                }
                Err(source) => {
                    return Err(MembershipError::Address { network: name.clone(), source: Box::new(source) });
                }
            };
            reservation.record.docker.clone_from(&record.docker);
            match self.inner.allocator.commit(&mut reservation, None).await {
                Ok(revision) => return Ok(Stored { record: reservation.record.clone(), revision, lease: 0 }),
                Err(CommitError::AddressTaken { .. } | CommitError::BlockLost(_)) => {
                    (request.ipv4, request.ipv6, request.mac) = (None, None, None);
                }
                Err(source) => {
                    if matches!(&source, CommitError::Store { source, .. } if source.is_unknown()) {
                        let mut unsettled = self.inner.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
                        unsettled.insert(record.id, reservation);
                    }
                    return Err(MembershipError::Leg { network: name.clone(), source: Box::new(source) });
                }
            }
        }
        Err(MembershipError::NetworkGone(network))
    }

    /// The membership as it should be now, written only where it is not.
    async fn renew_member(&self, network: NetworkId, token: Token) -> Result<MemberRecord, MembershipError> {
        let key = Key::Member(network, token.node);
        let reply = self.inner.client.read([&key], self.deadline()).await?;
        let stored = self.inner.client.found::<MemberRecord>(&reply, &key)?.map(|stored| stored.record);
        let extra = stored.as_ref().map(|member| member.extra.clone()).unwrap_or_default();
        let member = MemberRecord { extra, ..self.member(token.epoch) };
        if stored.as_ref() != Some(&member) {
            self.put_member(network, token, member.clone()).await?;
        }
        Ok(member)
    }

    /// The endpoint as it is stored with the present epoch and VTEP; `None`: it is not there.
    async fn renew_epoch(
        &self,
        network: NetworkId,
        token: Token,
        record: &EndpointRecord,
    ) -> Result<Option<Stored<EndpointRecord>>, MembershipError> {
        let client = &self.inner.client;
        let Some(address) = record.primary_address() else { return Ok(None) };
        let key = Key::Endpoint(network, address);
        loop {
            let reply = client.read([&key], self.deadline()).await?;
            let stored = client.found::<EndpointRecord>(&reply, &key)?;
            let Some(stored) = stored.filter(|stored| stored.record.id == record.id) else { return Ok(None) };
            let now = EndpointRecord { epoch: token.epoch, vtep: self.vtep(), ..stored.record.clone() };
            if now == stored.record {
                return Ok(Some(stored));
            }
            let Ok(claim) = UpdateEndpoint::new(token, network, &stored, now.clone()) else { return Ok(None) };
            match client.submit(&claim, self.deadline()).await? {
                EndpointUpdated::Updated(revision) => {
                    return Ok(Some(Stored { record: now, revision, lease: 0 }));
                }
                EndpointUpdated::Gone => return Ok(None),
                EndpointUpdated::Changed(_) => {}
                EndpointUpdated::Fenced(_) => {
                    self.inner.registration.recheck();
                    return Err(StandingError::Changing(self.inner.identity.name.clone()).into());
                }
            }
        }
    }

    pub(super) async fn active_spec(&self, network: NetworkId) -> Result<Option<Stored<NetworkSpec>>, MembershipError> {
        let key = Key::Spec(network);
        let reply = self.inner.client.read([&key], self.deadline()).await?;
        let spec = self.inner.client.found::<NetworkSpec>(&reply, &key)?;
        Ok(spec.filter(|spec| spec.record.state == NetworkState::Active))
    }
}

/// Whether trying again cannot help: the network is gone or has no address, or the node takes on nothing, which only a
/// person ends.
fn is_final(error: &MembershipError) -> bool {
    match error {
        MembershipError::NetworkGone(_) => true,
        MembershipError::Address { source, .. } => matches!(
            **source,
            AllocationError::NetworkDeleting(_)
                | AllocationError::Exhausted(_)
                | AllocationError::Shape(_)
                | AllocationError::Standing(StandingError::Draining(_))
        ),
        MembershipError::Leg { source, .. } => {
            matches!(
                **source,
                CommitError::NetworkGone(_) | CommitError::Claim(_) | CommitError::Standing(StandingError::Draining(_))
            )
        }
        MembershipError::Release { .. } | MembershipError::Standing(_) | MembershipError::Store(_) => false,
    }
}

fn request_of(record: &EndpointRecord, vtep: std::net::IpAddr) -> EndpointRequest {
    EndpointRequest {
        id: record.id,
        kind: record.kind,
        name: record.name.clone(),
        aliases: record.aliases.clone(),
        mac: Some(record.mac),
        ipv4: record.ipv4,
        ipv6: record.ipv6,
        sandbox: record.sandbox.clone(),
        published: record.published.clone(),
        vtep,
    }
}
