//! The kernel of this node: the [`Kernel`] port carried out with netlink, in the host's and the data plane's namespaces.
//!
//! Reading, deciding and writing are apart: `decode` and `objects` turn messages into objects, `recipe` says what is wrong
//! with a device, `rows` and `encode` turn steps into messages, `netlink` sends them. Only what carries our mark (`mark`)
//! is changed or removed. The nftables part is behind [`Firewall`].

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use weft_overlay::{
    id::{EndpointId, Mac, NetworkId},
    kernel::{
        Kernel, KernelState, NetworkObject, NodeObject, Object, ObjectId, ObserveError, SandboxState, Scope, Step,
        StepError,
    },
};

use self::netlink::Channel;
use crate::netns::Namespace;

mod announce;
pub mod dataplane_ns;
mod decode;
mod devices;
mod encode;
mod errno;
mod graves;
pub mod held_subnets;
pub mod host;
pub mod host_mounts;
mod mark;
mod netlink;
mod node;
mod objects;
mod observe;
mod ports;
mod recipe;
mod rows;
mod sandbox;
mod settings;
pub mod watch;
mod writes;

pub use mark::{ROUTE_PROTOCOL, RULE_PREFERENCE};

/// The nftables part of the kernel: tables, elements of sets, accepting rules in the chains of others.
pub trait Firewall: Send {
    /// Reads these objects, or all.
    ///
    /// # Errors
    /// When the rules cannot be read; then nothing may be concluded.
    fn observe(&mut self, ids: Option<&BTreeSet<NodeObject>>) -> Result<BTreeMap<NodeObject, Object>, ObserveError>;

    /// Carries out steps in order; the answers are in the order of the steps.
    fn apply(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>>;
}

/// Where the kernel's objects are and what the node's VXLAN traffic uses.
#[derive(Debug, Clone)]
pub struct Places {
    /// The host's network namespace: the underlay, the legs, the routing rules.
    pub host: Namespace,
    /// The data plane's: bridges, VXLAN devices, bridge ends of veths.
    pub data_plane: Namespace,
    /// The node's UDP port for VXLAN.
    pub vxlan_port: u16,
}

/// The kernel of this node.
#[derive(Debug)]
pub struct LinuxKernel<F> {
    host: Channel,
    data_plane: Channel,
    vxlan_port: u16,
    firewall: F,
    /// What each container's end was last wanted to be: both ends of a veth are made by one message, so a lost port can
    /// only be made anew together with the container's end.
    sandboxes: BTreeMap<EndpointId, SandboxState>,
    /// Neighbours that were removed lately. One that returns with another MAC must be announced.
    departed: BTreeMap<(NetworkId, IpAddr), Mac>,
}

/// Bounds the memory that messages take while 300,000 rows are written.
const ROWS_AT_ONCE: usize = 4096;

/// The kinds of steps that are carried out in different ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Rows,
    Device,
    Sandbox,
    Node,
    Firewall,
}

impl<F: Firewall> LinuxKernel<F> {
    /// Uses these namespaces. Sockets are opened when they are first needed.
    pub fn new(places: Places, firewall: F) -> Self {
        Self {
            host: Channel::new(places.host),
            data_plane: Channel::new(places.data_plane),
            vxlan_port: places.vxlan_port,
            firewall,
            sandboxes: BTreeMap::new(),
            departed: BTreeMap::new(),
        }
    }

    /// How many requests that change something have been sent by netlink so far, in both namespaces.
    pub fn writes(&self) -> u64 {
        self.host.written() + self.data_plane.written()
    }

    fn apply_lane(&mut self, lane: Lane, run: &[Step], all: &[Step]) -> Vec<Result<(), StepError>> {
        match lane {
            Lane::Rows => run.chunks(ROWS_AT_ONCE).flat_map(|rows| self.apply_rows(rows)).collect(),
            Lane::Device => run.iter().map(|step| self.apply_device(step, all)).collect(),
            Lane::Sandbox => run.iter().map(|step| self.apply_sandbox(step)).collect(),
            Lane::Node => run.iter().map(|step| self.apply_node(step)).collect(),
            Lane::Firewall => self.firewall.apply(run),
        }
    }

    fn remember_sandboxes(&mut self, steps: &[Step]) {
        for step in steps {
            if let (ObjectId::Network(_, NetworkObject::Sandbox(endpoint)), Some(Object::Sandbox(state))) =
                (step.id(), step.result())
            {
                self.sandboxes.insert(*endpoint, (**state).clone());
            }
        }
    }

    fn forget_sandboxes(&mut self, steps: &[Step]) {
        for step in steps {
            if let Step::Delete(ObjectId::Network(_, NetworkObject::Sandbox(endpoint)), _) = step {
                self.sandboxes.remove(endpoint);
            }
        }
    }
}

impl<F: Firewall> Kernel for LinuxKernel<F> {
    fn observe(&mut self, scope: &Scope) -> Result<KernelState, ObserveError> {
        match scope {
            Scope::Everything => {
                let mut state = self.observe_networks(None)?;
                state.objects.extend(self.observe_node(None)?);
                Ok(state)
            }
            Scope::Node => Ok(KernelState { objects: self.observe_node(None)? }),
            Scope::Network(network) => self.observe_networks(Some(*network)),
            Scope::Objects(ids) => self.observe_objects(ids),
            Scope::Sandboxes(places) => Ok(self.observe_sandboxes(places)),
        }
    }

    fn apply(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        self.remember_sandboxes(steps);
        let mut outcomes = Vec::with_capacity(steps.len());
        for run in steps.chunk_by(|a, b| lane(a.id()) == lane(b.id())) {
            outcomes.extend(self.apply_lane(lane(run[0].id()), run, steps));
        }
        self.forget_sandboxes(steps);
        outcomes
    }

    fn sweep(&mut self) -> Result<(), StepError> {
        graves::sweep(&mut self.data_plane)
    }
}

fn lane(id: &ObjectId) -> Lane {
    match id {
        ObjectId::Node(NodeObject::Table(_) | NodeObject::Element(_) | NodeObject::ForeignAccepts) => Lane::Firewall,
        ObjectId::Node(NodeObject::HostForwarding | NodeObject::DataPlaneSettings | NodeObject::SendGuard(_)) => {
            Lane::Node
        }
        ObjectId::Network(_, NetworkObject::Sandbox(_)) => Lane::Sandbox,
        ObjectId::Network(..) if id.is_device() => Lane::Device,
        ObjectId::Network(..) => Lane::Rows,
    }
}

fn observe_error(what: &'static str, namespace: &Namespace) -> impl FnOnce(io::Error) -> ObserveError + use<> {
    let namespace = namespace.label().to_owned();
    move |cause| ObserveError { what, namespace, cause }
}
