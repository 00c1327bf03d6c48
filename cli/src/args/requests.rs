//! Arguments of the commands that ask the agent, and what they ask for.
//!
//! The agent decides what is possible; only what can be told from the text alone is refused here, with the words that
//! the agent would use.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use clap::{Args, Subcommand};
use ipnetwork::IpNetwork;
use weft_node_agent::api::messages::{Connect, CreateNetwork, Disconnect};
use weft_overlay::{
    id::{EndpointId, IfName, Mac, Name, Vni},
    model::PublishedPort,
};

use super::examples;
use crate::values::{ContainerRef, Label, ValueError, parse_published_port, parse_subnet};

/// Create, list, inspect and remove networks
///
/// A network is one Layer 2 segment on all nodes: it has a name, a VNI, subnets and an MTU, and exists on a node as soon
/// as a container there is connected to it.
#[derive(Debug, Args)]
#[command(after_long_help = examples::NETWORK)]
pub(crate) struct NetworkArgs {
    #[command(subcommand)]
    pub(crate) command: NetworkCommand,
}

/// What to do with networks.
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    Create(NetworkCreateArgs),
    /// List all networks
    ///
    /// Lists the networks of the cluster with the number of containers in each, on all nodes.
    #[command(after_long_help = examples::NETWORK_LS)]
    Ls,
    /// Show one network with its members, containers and address blocks
    ///
    /// Shows one network: its settings, the nodes that take part in it, the containers in it on all nodes, and which
    /// node may hand out which of its addresses.
    #[command(after_long_help = examples::NETWORK_INSPECT)]
    Inspect {
        /// The network
        #[arg(value_name = "NAME")]
        name: Name,
    },
    /// Remove a network
    ///
    /// Removes a network that no container is in. If one is, the answer lists who uses it and nothing changes; with
    /// --force the containers are disconnected first, on every node.
    #[command(after_long_help = examples::NETWORK_RM)]
    Rm {
        /// The network
        #[arg(value_name = "NAME")]
        name: Name,
        /// Disconnect the containers in it
        #[arg(long)]
        force: bool,
    },
}

/// Create a network
///
/// Creates a network for the whole cluster and prints it. Without --subnet the cluster picks a free /20 of 10.32.0.0/11
/// and a /64 of a unique local IPv6 prefix, clear of every route that any node has. A subnet that overlaps another
/// network or a node's route is refused, naming both.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = examples::NETWORK_CREATE)]
pub(crate) struct NetworkCreateArgs {
    /// The new network's name: 1 to 63 letters, digits, '_', '.' or '-', beginning with a letter or digit
    #[arg(value_name = "NAME")]
    name: Name,
    /// A subnet; may be given once for each family [default: one of each, chosen by the cluster]
    #[arg(long = "subnet", value_name = "CIDR", value_parser = parse_subnet)]
    subnets: Vec<IpNetwork>,
    /// A gateway's address in one of the subnets; may be given once for each [default: the subnet's first address]
    #[arg(long = "gateway", value_name = "A")]
    gateways: Vec<IpAddr>,
    /// Hand out addresses from this part of a subnet only, the rest being for --ip and --ip6 of `weft connect`; may be
    /// given once for each subnet
    #[arg(long = "ip-range", value_name = "CIDR", value_parser = parse_subnet)]
    ip_ranges: Vec<IpNetwork>,
    /// The VXLAN network identifier, 1 to 16777215 [default: chosen by the cluster]
    #[arg(long, value_name = "N")]
    vni: Option<Vni>,
    /// MTU in bytes, 68 to 65535 [default: what fits into the underlay, followed as it changes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(68..=65_535))]
    mtu: Option<u32>,
    /// No way out of the network: no route to the outside and no address translation; names still resolve
    #[arg(long)]
    internal: bool,
    /// A label, for your own use; may be given several times
    #[arg(long = "label", value_name = "K=V")]
    labels: Vec<Label>,
}

impl TryFrom<NetworkCreateArgs> for CreateNetwork {
    type Error = ValueError;

    fn try_from(args: NetworkCreateArgs) -> Result<Self, ValueError> {
        let mut labels = BTreeMap::new();
        for Label { key, value } in args.labels {
            if labels.insert(key.clone(), value).is_some() {
                return Err(ValueError::LabelTwice { key });
            }
        }
        Ok(Self {
            name: args.name,
            subnets: args.subnets,
            gateways: args.gateways,
            ip_ranges: args.ip_ranges,
            vni: args.vni,
            mtu: args.mtu,
            internal: args.internal,
            labels,
        })
    }
}

/// Connect a container of this host to a network
///
/// Gives a running container an interface in a network: address, MAC, routes and name. A container may be in several
/// networks, but only once in each. Prints the endpoint once it can send and receive; what you should know about it is
/// printed as a warning on standard error.
///
/// For a named network namespace, name resolution is set up in /etc/netns/NAME/resolv.conf.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = examples::CONNECT)]
pub(crate) struct ConnectArgs {
    /// The network
    #[arg(value_name = "NETWORK")]
    network: Name,
    /// The container: a named network namespace, an absolute path such as /proc/PID/ns/net, or pid:N
    #[arg(value_name = "CONTAINER")]
    container: ContainerRef,
    /// The name that others find it by [default: the container's]
    #[arg(long, value_name = "N")]
    name: Option<Name>,
    /// Its IPv4 address: any free one of the subnet [default: the next free one]
    #[arg(long, value_name = "A")]
    ip: Option<Ipv4Addr>,
    /// Its IPv6 address: any free one of the subnet [default: the next free one]
    #[arg(long, value_name = "A")]
    ip6: Option<Ipv6Addr>,
    /// Its MAC address [default: derived from its address]
    #[arg(long, value_name = "M")]
    mac: Option<Mac>,
    /// A further name, which several containers may share; may be given several times
    #[arg(long = "alias", value_name = "N")]
    aliases: Vec<Name>,
    /// The interface's name in the container, such as eth0 [default: the first free of eth0, eth1, ...]
    #[arg(long, value_name = "IFNAME")]
    ifname: Option<IfName>,
    /// Make PORT of the container reachable at HOSTPORT of this host; may be given several times
    ///
    /// Without IP at every address of this host; an IPv6 address goes in brackets. TCP unless /udp is given.
    #[arg(
        long = "publish",
        value_name = "[IP:]HOSTPORT:PORT[/tcp|udp]",
        value_parser = parse_published_port
    )]
    published: Vec<PublishedPort>,
}

impl From<ConnectArgs> for Connect {
    fn from(args: ConnectArgs) -> Self {
        Self {
            network: args.network,
            container: args.container.into(),
            name: args.name,
            ipv4: args.ip,
            ipv6: args.ip6,
            mac: args.mac,
            aliases: args.aliases,
            ifname: args.ifname,
            published: args.published,
        }
    }
}

/// Disconnect a container of this host from a network
///
/// Takes the container's interface in the network away and frees its addresses. Prints the endpoint as it was.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = examples::DISCONNECT)]
pub(crate) struct DisconnectArgs {
    /// The network
    #[arg(value_name = "NETWORK")]
    network: Name,
    /// The container, as it was given to `weft connect`
    #[arg(value_name = "CONTAINER")]
    container: ContainerRef,
}

impl From<DisconnectArgs> for Disconnect {
    fn from(args: DisconnectArgs) -> Self {
        Self { network: args.network, container: args.container.into() }
    }
}

/// List and inspect endpoints
///
/// An endpoint is one attachment of one container to one network.
#[derive(Debug, Args)]
#[command(after_long_help = examples::ENDPOINT)]
pub(crate) struct EndpointArgs {
    #[command(subcommand)]
    pub(crate) command: EndpointCommand,
}

/// What to do with endpoints.
#[derive(Debug, Subcommand)]
pub(crate) enum EndpointCommand {
    /// List endpoints on all nodes
    ///
    /// Lists the containers in the networks of the cluster. A node's own legs, through which hosts reach containers, are
    /// left out unless --all is given; so it is with --output json.
    #[command(after_long_help = examples::ENDPOINT_LS)]
    Ls {
        /// Only those in this network
        #[arg(long, value_name = "N")]
        network: Option<Name>,
        /// Only those on this node
        #[arg(long, value_name = "N")]
        node: Option<Name>,
        /// The nodes' own legs too
        #[arg(long)]
        all: bool,
    },
    /// Show one endpoint
    ///
    /// Shows everything about one endpoint: addresses, names, container, interface and published ports.
    #[command(after_long_help = examples::ENDPOINT_INSPECT)]
    Inspect {
        /// The endpoint's id, twelve hexadecimal digits as `weft endpoint ls` shows them
        #[arg(value_name = "ID")]
        id: EndpointId,
    },
}

/// List, inspect, drain and remove nodes
///
/// A node is a host that runs the agent.
#[derive(Debug, Args)]
#[command(after_long_help = examples::NODE)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    pub(crate) command: NodeCommand,
}

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List all nodes
    ///
    /// Lists the nodes of the cluster, also those that show no sign of life (`unreachable`) and those that were given up
    /// (`lost`).
    #[command(after_long_help = examples::NODE_LS)]
    Ls,
    /// Show one node
    ///
    /// Shows one node with its routes, which subnets of networks stay clear of.
    #[command(after_long_help = examples::NODE_INSPECT)]
    Inspect {
        /// The node
        #[arg(value_name = "N")]
        name: Name,
    },
    /// Let a node take on nothing new
    ///
    /// A draining node keeps what it has but accepts no new endpoints, so that its containers can be moved away before
    /// maintenance. --undo lets it accept them again.
    #[command(after_long_help = examples::NODE_DRAIN)]
    Drain {
        /// The node
        #[arg(value_name = "N")]
        name: Name,
        /// Let it accept new endpoints again
        #[arg(long)]
        undo: bool,
    },
    /// Remove a node from the cluster
    ///
    /// Removes a node that has been taken out of service, with what the cluster remembers of it. A node whose agent runs
    /// is refused: drain it, disconnect its containers and stop its agent first.
    #[command(after_long_help = examples::NODE_RM)]
    Rm {
        /// The node
        #[arg(value_name = "N")]
        name: Name,
        /// Have the controller give up what the node still has: its endpoints, blocks and memberships
        #[arg(long)]
        force: bool,
    },
}
