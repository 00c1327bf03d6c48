//! What Docker and its plugins say to each other: libnetwork's remote network and IPAM protocols, as JSON.
//!
//! Names of fields are Docker's. Unknown fields are ignored, since every release adds some, and `null`, missing and empty
//! mean the same, because Go writes empty maps and lists as `null`. Must not interpret anything.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Reads `null` as the empty value.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// One address pool of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct PoolData {
    /// Which IPAM driver it is of: `LocalDefault` is Docker's own, absent the null driver.
    #[serde(deserialize_with = "or_default")]
    pub(super) address_space: String,
    /// The subnet in CIDR notation.
    #[serde(deserialize_with = "or_default")]
    pub(super) pool: String,
    /// The gateway in CIDR notation.
    #[serde(deserialize_with = "or_default")]
    pub(super) gateway: String,
    /// Addresses that no endpoint may have, by a name of the user's, in CIDR notation.
    #[serde(deserialize_with = "or_default")]
    pub(super) aux_addresses: BTreeMap<String, String>,
}

/// `NetworkDriver.CreateNetwork`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct CreateNetwork {
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub(super) network_id: String,
    #[serde(rename = "Options", deserialize_with = "or_default")]
    pub(super) options: Map<String, Value>,
    #[serde(rename = "IPv4Data", deserialize_with = "or_default")]
    pub(super) ipv4: Vec<PoolData>,
    #[serde(rename = "IPv6Data", deserialize_with = "or_default")]
    pub(super) ipv6: Vec<PoolData>,
}

/// `NetworkDriver.DeleteNetwork` and `FreeNetwork`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct NetworkOnly {
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub(super) network_id: String,
}

/// The addresses that an endpoint has or shall have; empty: not set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Interface {
    #[serde(rename = "Address", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(super) address: String,
    #[serde(rename = "AddressIPv6", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(super) address_ipv6: String,
    #[serde(rename = "MacAddress", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(super) mac_address: String,
}

/// `NetworkDriver.CreateEndpoint`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct CreateEndpoint {
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub(super) network_id: String,
    #[serde(rename = "EndpointID", deserialize_with = "or_default")]
    pub(super) endpoint_id: String,
    #[serde(rename = "Interface", deserialize_with = "or_default")]
    pub(super) interface: Interface,
}

/// `NetworkDriver.Join`, and with less in it every other call about one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct OfEndpoint {
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub(super) network_id: String,
    #[serde(rename = "EndpointID", deserialize_with = "or_default")]
    pub(super) endpoint_id: String,
    #[serde(rename = "SandboxKey", deserialize_with = "or_default")]
    pub(super) sandbox_key: String,
}

/// The interface that Docker shall put into the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InterfaceName {
    pub(super) src_name: String,
    pub(super) dst_prefix: &'static str,
}

/// The answer to `Join`: without an interface Docker adds none, because it is there already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Joined {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) interface_name: Option<InterfaceName>,
}

/// `IpamDriver.RequestPool`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct RequestPool {
    #[serde(deserialize_with = "or_default")]
    pub(super) pool: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) sub_pool: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) options: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) v6: bool,
}

/// `IpamDriver.RequestAddress`, `ReleaseAddress` and `ReleasePool`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct OfPool {
    #[serde(rename = "PoolID", deserialize_with = "or_default")]
    pub(super) pool_id: String,
    #[serde(rename = "Address", deserialize_with = "or_default")]
    pub(super) address: String,
    #[serde(rename = "Options", deserialize_with = "or_default")]
    pub(super) options: BTreeMap<String, String>,
}
