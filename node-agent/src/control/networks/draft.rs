//! From what a user asks for to a network's specification. Pure: what is taken and chance are arguments.

use std::{collections::BTreeMap, net::IpAddr};

use ipnetwork::IpNetwork;
use rand::{RngExt, rngs::StdRng};
use thiserror::Error;
use weft_ipam::{
    DualStack, IpRange, Subnet, SubnetError, Taken, block_prefix_len, choose_subnet, choose_ula,
    dual_stack::DualStackError,
    first_conflict, overlap,
    subnet::{
        GatewayError,
        choice::{ChooseSubnetError, DEFAULT_PREFIX_LEN, default_pool},
        conflict::SubnetConflict,
        range::IpRangeError,
    },
};
use weft_overlay::{
    claims::CreateNetwork,
    id::{Name, NetworkId, Vni},
    model::{NetworkNameRecord, NetworkSpec, NetworkState, RECORD_VERSION, SubnetSpec},
};

use super::NetworksError;

/// The least MTU that every IPv6 link must have (RFC 8200 5).
const LEAST_MTU: u32 = 1280;
/// The largest MTU that the kernel gives a VXLAN device.
const LARGEST_MTU: u32 = 65_485;
/// Labels are for people; a network's record is read by every agent.
const MOST_LABELS: usize = 64;
/// The longest name or value of a label, in bytes.
const LONGEST_LABEL: usize = 256;

/// What a network shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRequest {
    /// Its name.
    pub name: Name,
    /// At most one of each family; none: chosen.
    pub subnets: Vec<IpNetwork>,
    /// At most one in each subnet; else the first address.
    pub gateways: Vec<IpAddr>,
    /// At most one in each subnet: where addresses are handed out from.
    pub ip_ranges: Vec<IpNetwork>,
    /// Addresses that no endpoint may have; those outside the subnets are left out.
    pub auxiliary: Vec<IpAddr>,
    /// The VNI; absent: chosen.
    pub vni: Option<Vni>,
    /// The MTU in bytes; absent: computed from the underlay.
    pub mtu: Option<u32>,
    /// No way out.
    pub internal: bool,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// The driver's options that Docker's user gave.
    pub docker_options: BTreeMap<String, String>,
}

/// Why a request makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DraftError {
    /// A subnet that cannot be one.
    #[error(transparent)]
    Subnet(#[from] SubnetError),
    /// Two subnets of one family.
    #[error("subnets {0} and {1} are of one family; a network has at most one IPv4 and one IPv6 subnet")]
    TwoOfOneFamily(IpNetwork, IpNetwork),
    /// A gateway that cannot be one.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// A gateway that is in none of the subnets, or a second one.
    #[error(
        "gateway {0} belongs to no subnet of this network, or its subnet has one already; give one --gateway inside each --subnet"
    )]
    SpareGateway(IpAddr),
    /// A range that cannot be one.
    #[error(transparent)]
    Range(#[from] IpRangeError),
    /// A range that is in none of the subnets, or a second one.
    #[error(
        "range {0} belongs to no subnet of this network, or its subnet has one already; give one --ip-range inside each --subnet"
    )]
    SpareRange(IpNetwork),
    /// Two subnets that do not go together.
    #[error(transparent)]
    DualStack(#[from] DualStackError),
    /// An MTU that no device can have.
    #[error("MTU {0} is not possible; use {LEAST_MTU} to {LARGEST_MTU}, or leave --mtu out to have it computed")]
    Mtu(u32),
    /// Too many labels, or too long ones.
    #[error(
        "labels or options are too many or too long; use at most {MOST_LABELS}, of at most {LONGEST_LABEL} bytes each side"
    )]
    Labels,
    /// Nothing is free.
    #[error(transparent)]
    Choice(#[from] ChooseSubnetError),
}

impl NetworkRequest {
    /// A request that leaves everything open.
    pub fn named(name: Name) -> Self {
        Self {
            name,
            subnets: Vec::new(),
            gateways: Vec::new(),
            ip_ranges: Vec::new(),
            auxiliary: Vec::new(),
            vni: None,
            mtu: None,
            internal: false,
            labels: BTreeMap::new(),
            docker_options: BTreeMap::new(),
        }
    }

    /// Keeps of these labels those that a network can have, in their order.
    pub fn take_labels(&mut self, labels: BTreeMap<String, String>) {
        let fits = |(key, value): &(String, String)| key.len() <= LONGEST_LABEL && value.len() <= LONGEST_LABEL;
        self.labels.extend(labels.into_iter().filter(fits).take(MOST_LABELS));
    }

    /// Checks what can be checked without the store.
    pub(super) fn check(&self) -> Result<(), DraftError> {
        if let Some(mtu) = self.mtu.filter(|mtu| !(LEAST_MTU..=LARGEST_MTU).contains(mtu)) {
            return Err(DraftError::Mtu(mtu));
        }
        let long = |text: &String| text.len() > LONGEST_LABEL;
        for map in [&self.labels, &self.docker_options] {
            if map.len() > MOST_LABELS || map.iter().any(|(key, value)| long(key) || long(value)) {
                return Err(DraftError::Labels);
            }
        }
        if !self.subnets.is_empty() {
            self.parts(&self.parse_subnets()?)?;
        }
        Ok(())
    }

    fn parse_subnets(&self) -> Result<Vec<Subnet>, DraftError> {
        let mut subnets: Vec<Subnet> = Vec::new();
        for network in &self.subnets {
            let subnet = Subnet::new(*network)?;
            if let Some(other) = subnets.iter().find(|other| other.is_ipv4() == subnet.is_ipv4()) {
                return Err(DraftError::TwoOfOneFamily(other.network(), *network));
            }
            subnets.push(subnet);
        }
        subnets.sort_by_key(|subnet| !subnet.is_ipv4());
        Ok(subnets)
    }

    /// The subnets with their gateways, ranges and sizes of blocks.
    fn parts(&self, subnets: &[Subnet]) -> Result<Vec<SubnetSpec>, DraftError> {
        if let [v4, v6] = subnets {
            DualStack::new(*v4, *v6)?;
        }
        let (mut gateways, mut ranges) = (self.gateways.clone(), self.ip_ranges.clone());
        let mut parts = Vec::new();
        for subnet in subnets {
            let gateway = take_first(&mut gateways, |gateway| subnet.contains(*gateway));
            let gateway = gateway.unwrap_or_else(|| subnet.default_gateway());
            subnet.check_gateway(gateway)?;
            let range = take_first(&mut ranges, |range| subnet.contains(range.network()));
            let range = range.map(|range| IpRange::new(*subnet, range)).transpose()?;
            parts.push(SubnetSpec {
                subnet: subnet.network(),
                gateway,
                ip_range: range.map(|range| range.network()),
                auxiliary: self.auxiliary.iter().copied().filter(|ip| subnet.contains(*ip)).collect(),
                block_len: block_prefix_len(*subnet, range),
            });
        }
        if let Some(spare) = gateways.first() {
            return Err(DraftError::SpareGateway(*spare));
        }
        if let Some(spare) = ranges.first() {
            return Err(DraftError::SpareRange(*spare));
        }
        Ok(parts)
    }
}

fn take_first<T>(from: &mut Vec<T>, fits: impl Fn(&T) -> bool) -> Option<T> {
    let at = from.iter().position(fits)?;
    Some(from.remove(at))
}

/// A network that may be created.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) network: NetworkId,
    pub(super) spec: NetworkSpec,
}

impl Draft {
    /// Chooses what the request leaves open, and checks what it asks for against what is taken.
    pub(super) fn new(request: &NetworkRequest, taken: &[Taken], rng: &mut StdRng) -> Result<Self, NetworksError> {
        let network = NetworkId::from_entropy(rng.random());
        let vni = request.vni.unwrap_or_else(|| Vni::from_entropy(rng.random()));
        let subnets = if request.subnets.is_empty() {
            let v4 = choose_subnet(default_pool(), DEFAULT_PREFIX_LEN, taken, rng.random());
            let v6 = choose_ula(network.to_string().as_bytes(), taken);
            vec![v4.map_err(DraftError::from)?, v6.map_err(DraftError::from)?]
        } else {
            request.parse_subnets()?
        };
        for subnet in &subnets {
            first_conflict(subnet.network(), taken)?;
        }
        let spec = NetworkSpec {
            v: RECORD_VERSION,
            name: request.name.clone(),
            vni,
            subnets: request.parts(&subnets)?,
            mtu: request.mtu,
            internal: request.internal,
            labels: request.labels.clone(),
            docker_options: request.docker_options.clone(),
            state: NetworkState::Active,
            force_delete: false,
            extra: BTreeMap::new(),
        };
        Ok(Self { network, spec })
    }

    pub(super) fn claim(&self) -> CreateNetwork {
        CreateNetwork { network: self.network, spec: self.spec.clone() }
    }
}

/// A subnet of a family that is clear of everything taken.
pub(super) fn propose(v6: bool, taken: &[Taken], rng: &mut StdRng) -> Result<IpNetwork, DraftError> {
    let chosen = if v6 {
        choose_ula(&rng.random::<u64>().to_be_bytes(), taken)
    } else {
        choose_subnet(default_pool(), DEFAULT_PREFIX_LEN, taken, rng.random())
    };
    Ok(chosen?.network())
}

/// The first overlap of a network with one that was created earlier.
pub(super) fn conflict_after(draft: &Draft, earlier: &[(String, NetworkNameRecord)]) -> Option<SubnetConflict> {
    let others = earlier.iter().filter(|(_, other)| other.id != draft.network);
    for (key, other) in others {
        for subnet in &other.subnets {
            if let Some(mine) = draft.spec.subnets.iter().find(|mine| overlap(mine.subnet, *subnet)) {
                let name = key.rsplit('/').next().unwrap_or_default();
                let holder = format!("network {name:?} ({subnet})");
                return Some(SubnetConflict { candidate: mine.subnet, network: *subnet, holder });
            }
        }
    }
    None
}
