//! What a call of Docker's asks for: read, checked, and refused in words for the user.
//!
//! Pure. Docker shows the words of a refusal as they are, behind "Error response from daemon".

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::{IpNetwork, Ipv4Network};
use serde_json::{Map, Value};
use thiserror::Error;
use weft_overlay::{
    id::{EndpointId, Mac, Vni},
    model::EndpointRecord,
};

use super::messages::{CreateNetwork, Interface, PoolData, RequestPool};

/// The option that names the cluster's network.
pub(super) const NETWORK_OPTION: &str = "weft.network";
/// The option for the VNI of a new network.
const VNI_OPTION: &str = "weft.vni";
/// The option that says who puts interfaces into running containers.
pub(super) const PLUMB_OPTION: &str = "weft.plumb";
/// Docker's own option for the MTU.
const MTU_OPTION: &str = "com.docker.network.driver.mtu";
/// Where Docker keeps a driver's options in a request.
const GENERIC: &str = "com.docker.network.generic";
const INTERNAL: &str = "com.docker.network.internal";
/// The kind of address that is a gateway's (`RequestAddressType`).
const GATEWAY_TYPE: &str = "com.docker.network.gateway";
/// The address space of our IPAM driver.
pub(super) const ADDRESS_SPACE: &str = "weft-local";

/// Why a call makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum OrderError {
    /// An option of ours that there is not.
    #[error(
        "there is no option {0:?}; the driver knows weft.network, weft.vni, weft.plumb and com.docker.network.driver.mtu"
    )]
    UnknownOption(String),
    /// An option with a value that it cannot have.
    #[error("option {option} cannot be {value:?}; give {wanted}")]
    BadOption {
        /// Which.
        option: &'static str,
        /// What was given.
        value: String,
        /// What it takes.
        wanted: &'static str,
    },
    /// More than one subnet of a family.
    #[error("{0} is the second subnet of its family; a network has at most one IPv4 and one IPv6 subnet")]
    SecondSubnet(String),
    /// A subnet that is none.
    #[error("{0:?} is not a subnet; write one such as 10.77.0.0/16")]
    BadSubnet(String),
    /// An address that is none.
    #[error("{0:?} is not an address that an endpoint can have")]
    BadAddress(String),
    /// An id that is none of Docker's.
    #[error("{0:?} is not an id of Docker's")]
    BadId(String),
    /// A pool that is none of ours.
    #[error("{0:?} is not a pool of this driver")]
    BadPool(String),
    /// The null driver, or none at all.
    #[error("a network needs a subnet; leave --ipam-driver out, or use --ipam-driver weft")]
    NoSubnet,
}

/// Who chooses the addresses of a network's endpoints on this engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressChooser {
    /// This driver.
    Weft,
    /// Docker itself, the lowest free first.
    Docker,
}

/// A network that Docker wants to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NetworkOrder {
    /// The cluster's network that it shall be: a name or an id.
    pub(super) identity: Option<String>,
    pub(super) subnets: Vec<IpNetwork>,
    pub(super) gateways: Vec<IpAddr>,
    pub(super) auxiliary: Vec<IpAddr>,
    pub(super) ip_ranges: Vec<IpNetwork>,
    pub(super) vni: Option<Vni>,
    pub(super) mtu: Option<u32>,
    pub(super) internal: bool,
    /// Who puts interfaces into running containers, if the user said so.
    pub(super) plumb: Option<String>,
    pub(super) chooser: AddressChooser,
    /// Every option, as given.
    pub(super) options: BTreeMap<String, String>,
}

impl NetworkOrder {
    /// Reads `CreateNetwork`.
    pub(super) fn of(request: &CreateNetwork) -> Result<Self, OrderError> {
        let generic = request.options.get(GENERIC).and_then(Value::as_object);
        let option = |name: &str| generic.and_then(|map| text(map, name));
        if let Some(unknown) = generic.into_iter().flat_map(Map::keys).find(|key| is_unknown(key)) {
            return Err(OrderError::UnknownOption(unknown.clone()));
        }
        let mut subnets = Vec::new();
        let (mut gateways, mut auxiliary) = (Vec::new(), Vec::new());
        for family in [&request.ipv4, &request.ipv6] {
            if let Some(second) = family.get(1) {
                return Err(OrderError::SecondSubnet(second.pool.clone()));
            }
            let Some(pool) = family.first() else { continue };
            let subnet = parse_subnet(&pool.pool)?;
            if subnet.prefix() == 0 {
                return Err(OrderError::NoSubnet);
            }
            subnets.push(subnet);
            gateways.extend((!pool.gateway.is_empty()).then(|| parse_address(&pool.gateway)).transpose()?);
            for address in pool.aux_addresses.values() {
                auxiliary.push(parse_address(address)?);
            }
        }
        if subnets.is_empty() {
            return Err(OrderError::NoSubnet);
        }
        let chooser = chooser(request.ipv4.first().or_else(|| request.ipv6.first()));
        Ok(Self {
            identity: option(NETWORK_OPTION).filter(|identity| !identity.is_empty()),
            ip_ranges: if chooser == AddressChooser::Docker { upper_half(&subnets) } else { Vec::new() },
            subnets,
            gateways,
            auxiliary,
            vni: option(VNI_OPTION).map(parse_vni).transpose()?,
            mtu: option(MTU_OPTION).map(parse_mtu).transpose()?,
            internal: request.options.get(INTERNAL).and_then(Value::as_bool).unwrap_or_default(),
            plumb: option(PLUMB_OPTION).map(parse_plumb).transpose()?,
            chooser,
            options: generic.into_iter().flatten().filter_map(|(key, value)| given(key, value)).collect(),
        })
    }

    /// Keeps the other hosts off a range that Docker hands out addresses from, and off its own low addresses otherwise.
    /// Where the addresses come from the cluster, the range is the cluster's, and stays as it is.
    pub(super) fn leave_to_docker(&mut self, range: IpNetwork) {
        if self.chooser != AddressChooser::Docker {
            return;
        }
        let Some(upper) = self.ip_ranges.iter_mut().find(|upper| weft_ipam::overlap(**upper, range)) else { return };
        if let (IpNetwork::V4(half), true) = (*upper, range.prefix() >= upper.prefix()) {
            let base = u32::from(half.network()) & !(1 << (32 - u32::from(half.prefix())));
            if let Ok(lower) = Ipv4Network::new(Ipv4Addr::from(base), half.prefix()) {
                *upper = IpNetwork::V4(lower);
            }
        }
    }

    /// Whether nobody asked for these very subnets.
    pub(super) fn is_chosen_by_docker(&self) -> bool {
        let pools = [("172.16.0.0/12", 16), ("192.168.0.0/16", 20)];
        self.chooser == AddressChooser::Docker
            && self.subnets.iter().all(|subnet| {
                pools.iter().any(|(pool, prefix)| {
                    subnet.prefix() == *prefix
                        && pool.parse::<IpNetwork>().is_ok_and(|pool| weft_ipam::overlap(pool, *subnet))
                })
            })
    }
}

fn given(key: &str, value: &Value) -> Option<(String, String)> {
    Some((key.to_owned(), value.as_str()?.to_owned()))
}

fn is_unknown(key: &str) -> bool {
    key.starts_with("weft.") && ![NETWORK_OPTION, VNI_OPTION, PLUMB_OPTION].contains(&key)
}

fn text(map: &Map<String, Value>, name: &str) -> Option<String> {
    map.get(name)?.as_str().map(str::to_owned)
}

fn chooser(pool: Option<&PoolData>) -> AddressChooser {
    let own = pool.is_some_and(|pool| pool.address_space == ADDRESS_SPACE);
    if own { AddressChooser::Weft } else { AddressChooser::Docker }
}

/// Docker hands out the lowest free address first and cannot be told otherwise, so the rest of the cluster keeps to the
/// upper half.
fn upper_half(subnets: &[IpNetwork]) -> Vec<IpNetwork> {
    let half = |subnet: &IpNetwork| match subnet {
        IpNetwork::V4(v4) if v4.prefix() <= 28 => {
            let prefix = v4.prefix() + 1;
            let base = u32::from(v4.network()) | 1 << (32 - u32::from(prefix));
            Ipv4Network::new(Ipv4Addr::from(base), prefix).ok().map(IpNetwork::V4)
        }
        _ => None,
    };
    subnets.iter().filter_map(half).collect()
}

pub(super) fn parse_subnet(text: &str) -> Result<IpNetwork, OrderError> {
    let bad = || OrderError::BadSubnet(text.to_owned());
    let network: IpNetwork = text.parse().map_err(|_| bad())?;
    IpNetwork::new(network.network(), network.prefix()).map_err(|_| bad())
}

/// An address with or without a prefix length: Docker writes both.
pub(super) fn parse_address(text: &str) -> Result<IpAddr, OrderError> {
    let address = text.split('/').next().unwrap_or_default();
    address.parse().map_err(|_| OrderError::BadAddress(text.to_owned()))
}

fn parse_vni(value: String) -> Result<Vni, OrderError> {
    let vni = value.parse::<u32>().ok().and_then(|number| Vni::try_from(number).ok());
    vni.ok_or(OrderError::BadOption { option: VNI_OPTION, value, wanted: "a number from 1 to 16777215" })
}

fn parse_mtu(value: String) -> Result<u32, OrderError> {
    value.parse().map_err(|_| OrderError::BadOption { option: MTU_OPTION, value, wanted: "a number of bytes" })
}

fn parse_plumb(value: String) -> Result<String, OrderError> {
    match value.as_str() {
        "docker" | "direct" => Ok(value),
        _ => Err(OrderError::BadOption { option: PLUMB_OPTION, value, wanted: "docker or direct" }),
    }
}

/// The addresses that Docker wants an endpoint to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct WantedAddresses {
    pub(super) ipv4: Option<Ipv4Addr>,
    pub(super) ipv6: Option<Ipv6Addr>,
    pub(super) mac: Option<Mac>,
}

impl WantedAddresses {
    pub(super) fn of(interface: &Interface) -> Result<Self, OrderError> {
        let mut wanted = Self::default();
        for text in [&interface.address, &interface.address_ipv6] {
            match (!text.is_empty()).then(|| parse_address(text)).transpose()? {
                Some(IpAddr::V4(v4)) => wanted.ipv4 = Some(v4),
                Some(IpAddr::V6(v6)) => wanted.ipv6 = Some(v6),
                None => {}
            }
        }
        if !interface.mac_address.is_empty() {
            let mac = interface.mac_address.parse();
            wanted.mac = Some(mac.map_err(|_| OrderError::BadAddress(interface.mac_address.clone()))?);
        }
        Ok(wanted)
    }
}

/// The answer to `CreateEndpoint`: only what was not given, or Docker refuses the answer.
pub(super) fn chosen(given: &Interface, record: &EndpointRecord, subnets: &[IpNetwork]) -> Interface {
    let cidr = |ip: IpAddr| {
        let subnet = subnets.iter().find(|subnet| subnet.contains(ip));
        subnet.map_or_else(String::new, |subnet| format!("{ip}/{}", subnet.prefix()))
    };
    let unless = |given: &String, value: Option<String>| {
        if given.is_empty() { value.unwrap_or_default() } else { String::new() }
    };
    // With an address given, Docker's IPAM decided which families there are.
    let free = given.address.is_empty() && given.address_ipv6.is_empty();
    Interface {
        address: unless(&given.address, record.ipv4.filter(|_| free).map(|ip| cidr(ip.into()))),
        address_ipv6: unless(&given.address_ipv6, record.ipv6.filter(|_| free).map(|ip| cidr(ip.into()))),
        mac_address: unless(&given.mac_address, Some(record.mac.to_string())),
    }
}

/// Our id of one of Docker's endpoints: the first twelve of its random digits.
pub(super) fn endpoint_id(docker: &str) -> Result<EndpointId, OrderError> {
    let bad = || OrderError::BadId(docker.chars().take(80).collect());
    docker.get(..12).ok_or_else(bad)?.parse().map_err(|_| bad())
}

/// One of our pools, as Docker keeps it: `weft/<subnet>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PoolId(pub(super) IpNetwork);

impl PoolId {
    pub(super) fn parse(text: &str) -> Result<Self, OrderError> {
        let bad = || OrderError::BadPool(text.chars().take(80).collect());
        let subnet = text.strip_prefix("weft/").ok_or_else(bad)?;
        parse_subnet(subnet).map(Self).map_err(|_| bad())
    }

    pub(super) fn text(self) -> String {
        format!("weft/{}", self.0)
    }

    /// The address with the pool's prefix length, as Docker wants it.
    pub(super) fn with_prefix(self, ip: IpAddr) -> String {
        format!("{ip}/{}", self.0.prefix())
    }
}

/// What a pool shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PoolOrder {
    /// This subnet, and where in it addresses are handed out.
    Given(IpNetwork, Option<IpNetwork>),
    /// Any of a family.
    Any {
        /// Of IPv6.
        v6: bool,
    },
}

impl PoolOrder {
    pub(super) fn of(request: &RequestPool) -> Result<Self, OrderError> {
        if request.pool.is_empty() {
            return Ok(Self::Any { v6: request.v6 });
        }
        let range = (!request.sub_pool.is_empty()).then(|| parse_subnet(&request.sub_pool)).transpose()?;
        Ok(Self::Given(parse_subnet(&request.pool)?, range))
    }
}

/// Whether an address is asked for as a network's gateway.
pub(super) fn is_gateway(options: &BTreeMap<String, String>) -> bool {
    options.get("RequestAddressType").is_some_and(|kind| kind == GATEWAY_TYPE)
}

#[cfg(test)]
mod tests;
