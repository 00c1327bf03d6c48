//! What is ours in a kernel that others use too: names, interface aliases, device groups, route protocol, rule preference.
//!
//! A device is ours when its name is one that an id gives and it carries our alias or our group. The group is part of
//! the message that creates a device, the alias comes with the next one, so there is no moment in which a device of ours
//! looks like somebody else's.

use weft_overlay::id::{EndpointId, NetworkId};

/// Marks our routes and rules (`rtm_protocol`, FRA_PROTOCOL). Not in iproute2's rt_protos; must be ours alone, since
/// everything that carries it may be deleted.
pub const ROUTE_PROTOCOL: u8 = 87;
/// Marks the routes that hold subnets free; none of them leads anywhere.
pub(crate) const HELD_PROTOCOL: u8 = 88;
/// Preference of our routing rules: before those of VRFs (1000), of VPNs (5210 and up) and of the main table (32766),
/// any of which would route the packet first.
pub const RULE_PREFERENCE: u32 = 87;
/// Device group of what is in use: the letters `Weft`.
pub(crate) const GROUP: u32 = 0x5765_6674;
/// Device group of what waits for deletion.
pub(crate) const GRAVE_GROUP: u32 = GROUP + 1;
/// Alias of what waits for deletion.
pub(crate) const GRAVE_ALIAS: &str = "weft grave";

/// What a device is, as its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Bridge(NetworkId),
    Vxlan(NetworkId),
    /// The bridge end of the gateway leg.
    LegPort(NetworkId),
    /// The host's end of the gateway leg.
    Leg(NetworkId),
    /// The bridge end of an endpoint's veth.
    Port(EndpointId),
}

impl Role {
    /// The inverse of the names that ids give.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let (_, text) = name.split_once('-')?;
        if let Ok(endpoint) = text.parse::<EndpointId>() {
            return (endpoint.port_name().as_str() == name).then_some(Self::Port(endpoint));
        }
        let network: NetworkId = text.parse().ok()?;
        [Self::Bridge(network), Self::Vxlan(network), Self::LegPort(network), Self::Leg(network)]
            .into_iter()
            .find(|role| role.name() == name)
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Bridge(network) => network.bridge_name(),
            Self::Vxlan(network) => network.vxlan_name(),
            Self::LegPort(network) => network.leg_port_name(),
            Self::Leg(network) => network.leg_name(),
            Self::Port(endpoint) => endpoint.port_name(),
        }
        .to_string()
    }
}

/// The alias of a network's devices.
pub(crate) fn network_alias(network: NetworkId) -> String {
    format!("weft {network}")
}

/// The alias of both ends of an endpoint's veth.
pub(crate) fn endpoint_alias(network: NetworkId, endpoint: EndpointId) -> String {
    format!("weft {network} {endpoint}")
}

/// The network and endpoint that an alias names.
pub(crate) fn parse_alias(alias: &str) -> Option<(NetworkId, Option<EndpointId>)> {
    let mut words = alias.strip_prefix("weft ")?.split(' ');
    let network = words.next()?.parse().ok()?;
    let endpoint = words.next().map(str::parse).transpose().ok()?;
    words.next().is_none().then_some((network, endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_is_read_back_from_its_name() {
        let network = NetworkId::from_entropy(0xab);
        let endpoint = EndpointId::from_entropy(0xcd);

        for role in [
            Role::Bridge(network),
            Role::Vxlan(network),
            Role::LegPort(network),
            Role::Leg(network),
            Role::Port(endpoint),
        ] {
            assert_eq!(Role::of(&role.name()), Some(role));
        }
    }

    #[test]
    fn names_of_others_have_no_role() {
        for name in
            ["eth0", "wb-", "wb-zz", "wb-00000000AB", "xx-00000000ab", "wp-00000000ab", "wb-00000000000000cd", "-"]
        {
            assert_eq!(Role::of(name), None, "{name}");
        }
    }

    #[test]
    fn aliases_round_trip_and_others_are_refused() {
        let network = NetworkId::from_entropy(0xab);
        let endpoint = EndpointId::from_entropy(0xcd);

        assert_eq!(parse_alias(&network_alias(network)), Some((network, None)));
        assert_eq!(parse_alias(&endpoint_alias(network, endpoint)), Some((network, Some(endpoint))));
        for alias in ["", "weft", GRAVE_ALIAS, "weft 00000000ab x", "uplink", "weft 00000000ab 0000000000cd more"] {
            assert_eq!(parse_alias(alias), None, "{alias}");
        }
    }
}
