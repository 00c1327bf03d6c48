//! The IPAM driver: pools are subnets of the cluster's networks, addresses come from the node's own blocks.
//!
//! What a pool is shows in its id, so that nothing depends on what was remembered. An address is promised here and
//! registered with its endpoint; a promise that is not used lapses.

use std::{net::IpAddr, sync::Arc};

use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use tokio::time::Instant;
use weft_ipam::Subnet;
use weft_overlay::{
    id::{EndpointId, NetworkId},
    model::{EndpointKind, NetworkSpec, NetworkState},
    view::{NodeView, Stored},
};

use super::{
    Driver,
    error::DriverError,
    messages::{OfPool, RequestPool},
    order::{OrderError, PoolId, PoolOrder, is_gateway, parse_address},
    soon,
};
use crate::control::{
    allocation::EndpointRequest,
    networks::{NetworksError, find_network, propose_subnet},
};

impl Driver {
    pub(super) async fn request_pool(self: Arc<Self>, request: RequestPool) -> Result<Value, DriverError> {
        let (pool, range) = match PoolOrder::of(&request)? {
            PoolOrder::Given(pool, range) => (pool, range),
            PoolOrder::Any { v6 } => {
                let avoid = self.book(|book| book.proposed());
                let pool = propose_subnet(&self.attacher.client, v6, &avoid, soon()).await?;
                self.book(|book| book.propose(pool));
                (pool, None)
            }
        };
        Subnet::new(pool).map_err(|_| OrderError::BadSubnet(pool.to_string()))?;
        self.book(|book| book.open_pool(pool, range));
        Ok(json!({"PoolID": PoolId(pool).text(), "Pool": pool.to_string(), "Data": {}}))
    }

    pub(super) fn release_pool(&self, request: &OfPool) {
        // Whatever it is called with, the engine goes on; and a pool is only as long as its network.
        if let Ok(PoolId(pool)) = PoolId::parse(&request.pool_id) {
            self.book(|book| book.close_pool(pool));
        }
    }

    pub(super) async fn request_address(self: Arc<Self>, request: OfPool) -> Result<Value, DriverError> {
        let pool = PoolId::parse(&request.pool_id)?;
        let asked = (!request.address.is_empty()).then(|| parse_address(&request.address)).transpose()?;
        let ip = if is_gateway(&request.options) {
            self.gateway(pool.0, asked).await?
        } else {
            match asked {
                // The network's own: an auxiliary address, which every host asks for.
                Some(ip) if self.book(|book| book.is_being_made(pool.0)) => ip,
                _ => self.promise(pool.0, asked).await?,
            }
        };
        Ok(json!({"Address": pool.with_prefix(ip), "Data": {}}))
    }

    pub(super) async fn release_address(self: Arc<Self>, request: OfPool) -> Result<Value, DriverError> {
        let pool = PoolId::parse(&request.pool_id);
        let ip = parse_address(&request.address);
        if let (Ok(PoolId(pool)), Ok(ip)) = (pool, ip)
            && let Some((network, _)) = self.network_of_pool(pool).await
        {
            // A registered address goes with its endpoint.
            drop(self.book(|book| book.take_promised(network, ip)));
        }
        Ok(json!({}))
    }

    async fn gateway(&self, pool: IpNetwork, asked: Option<IpAddr>) -> Result<IpAddr, DriverError> {
        if let Some(asked) = asked {
            return Ok(asked);
        }
        let known = self.network_of_pool(pool).await;
        let of_spec = known.and_then(|(_, spec)| {
            let mut parts = spec?.record.subnets.into_iter().filter(|part| part.subnet == pool);
            parts.next().map(|part| part.gateway)
        });
        let subnet = Subnet::new(pool).map_err(|_| OrderError::BadSubnet(pool.to_string()))?;
        Ok(of_spec.unwrap_or_else(|| subnet.default_gateway()))
    }

    /// An address for an endpoint that Docker is about to create.
    async fn promise(&self, pool: IpNetwork, asked: Option<IpAddr>) -> Result<IpAddr, DriverError> {
        let (network, spec) = self.spec_of_pool(pool).await?;
        if pool.is_ipv6() && spec.record.subnet4().is_some() {
            return self.promise_second(network, asked);
        }
        let endpoint = EndpointId::from_entropy(rand::random());
        let mut wanted = self.endpoint_request(endpoint);
        match asked {
            Some(IpAddr::V4(v4)) => wanted.ipv4 = Some(v4),
            Some(IpAddr::V6(v6)) => wanted.ipv6 = Some(v6),
            None => {}
        }
        let reservation = Box::pin(self.attacher.allocator.reserve(network, &spec, wanted)).await?;
        let ip = reservation.record.primary_address().expect("a reservation is of an address");
        self.book(|book| book.promise(ip, reservation));
        Ok(ip)
    }

    /// The IPv6 address that goes with the IPv4 address that was promised just before.
    fn promise_second(&self, network: NetworkId, asked: Option<IpAddr>) -> Result<IpAddr, DriverError> {
        let second = self.book(|book| {
            let reservation = book.youngest_promised(network)?;
            if let Some(IpAddr::V6(v6)) = asked {
                reservation.record.ipv6 = Some(v6);
            }
            reservation.record.ipv6
        });
        second
            .map(IpAddr::V6)
            .or(asked)
            .ok_or_else(|| DriverError::NotReady(network.to_string(), "no IPv4 address was asked for"))
    }

    pub(super) fn endpoint_request(&self, id: EndpointId) -> EndpointRequest {
        EndpointRequest {
            id,
            kind: EndpointKind::Container,
            name: format!("docker-{id}").parse().expect("letters, digits and a dash are a name"),
            aliases: Vec::new(),
            mac: None,
            ipv4: None,
            ipv6: None,
            sandbox: None,
            published: Vec::new(),
            vtep: self.attacher.facts.vtep,
        }
    }

    /// The network of a pool, once it is one: Docker may be ahead of us by some milliseconds.
    async fn spec_of_pool(&self, pool: IpNetwork) -> Result<(NetworkId, Stored<NetworkSpec>), DriverError> {
        let deadline = soon();
        loop {
            if let Some((network, _)) = self.network_of_pool(pool).await {
                // One that is being removed may be in the way of one with its subnet.
                match find_network(&self.attacher.client, &network.to_string(), deadline).await {
                    Ok((network, spec)) if spec.record.state == NetworkState::Active => return Ok((network, spec)),
                    Ok(_) | Err(NetworksError::Unknown(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if let Some(why) = self.book(|book| book.refused_with(pool)) {
                return Err(DriverError::Refused(why));
            }
            if Instant::now() >= deadline {
                return Err(DriverError::NotReady(pool.to_string(), "no network of the cluster has this subnet"));
            }
            tokio::select! {
                // Cancel-safe: it only wakes.
                () = self.resolved.notified() => {}
                () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {}
            }
        }
    }

    /// The network with this subnet, with its specification where it is followed. Subnets of a cluster never overlap.
    async fn network_of_pool(&self, pool: IpNetwork) -> Option<(NetworkId, Option<Stored<NetworkSpec>>)> {
        let look = move |view: &NodeView| {
            let (_, record) = view.index().find(|(_, record)| record.subnets.contains(&pool))?;
            let spec = view.network(record.id).and_then(|content| content.spec.clone());
            Some((record.id, spec))
        };
        self.attacher.handle.view(look).await.ok().flatten()
    }
}
