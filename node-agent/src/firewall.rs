//! The node's firewall: two nftables tables of ours, and accepting rules in the chains of others.
//!
//! `inet weft` in the host's namespace says who may send VXLAN, keeps networks apart, masquerades and publishes ports;
//! `bridge weft` in the data plane's namespace says what a container may send. Their chains never change; everything
//! that varies is an [`Element`] of a set, written by netlink without starting a process. What should be there is
//! decided elsewhere: this module reads, compares and writes. It never changes a rule that is not ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use thiserror::Error;
use weft_overlay::kernel::{Element, NodeObject, Object, ObjectId, ObserveError, Step, StepError, Table};

pub use crate::kernel::Firewall;
use crate::netns::{Namespace, NetnsError};

mod content;
mod foreign;
mod netlink;
mod place;
pub(crate) mod redirect;
mod render;
mod sets;
mod steps;
mod structure;
mod wire;

pub use foreign::{HostileChain, Tool};
use place::Place;
use steps::{check_element, element_writes, is_element, is_table, not_ours, refused};

/// Why the firewall could not be opened.
#[derive(Debug, Error)]
pub enum FirewallError {
    /// A namespace cannot be entered.
    #[error("opening the firewall of a namespace")]
    Namespace(#[source] NetnsError),
    /// The kernel has no nftables, or we may not use it.
    #[error(
        "opening a netlink socket to nftables in {namespace}; CAP_NET_ADMIN and a kernel with nf_tables are needed"
    )]
    Socket {
        /// Where.
        namespace: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
}

/// The firewall of one node, by nftables.
///
/// It remembers the elements that it was told to have, and after a start those that it found, so that a table that has
/// to be loaded again comes with its content in the same transaction.
#[derive(Debug)]
pub struct NftFirewall {
    host: Place,
    data_plane: Place,
    vxlan_port: u16,
    known: BTreeMap<Element, Object>,
    adopted: bool,
    accepts_wanted: bool,
}

impl NftFirewall {
    /// Opens sockets in the host's and the data plane's namespaces; writes nothing.
    ///
    /// # Errors
    /// When a namespace cannot be entered or no socket can be made there.
    pub fn new(host: Namespace, data_plane: Namespace, vxlan_port: u16) -> Result<Self, FirewallError> {
        Ok(Self {
            host: Place::open(Table::Host, host)?,
            data_plane: Place::open(Table::DataPlane, data_plane)?,
            vxlan_port,
            known: BTreeMap::new(),
            adopted: false,
            accepts_wanted: true,
        })
    }

    /// The netlink ports that it writes from, each with the table whose namespace the port is in: notifications say from
    /// which port a change came.
    pub fn netlink_ports(&self) -> BTreeSet<(Table, u32)> {
        let places = [(Table::Host, &self.host), (Table::DataPlane, &self.data_plane)];
        places.into_iter().map(|(table, place)| (table, place.connection.port())).collect()
    }

    /// The chains of others in the host's namespace that would drop what the overlay needs, whether or not rules of ours
    /// in them accept it.
    ///
    /// # Errors
    /// When the rules cannot be listed.
    pub fn check_hostile_chains(&mut self) -> Result<Vec<HostileChain>, ObserveError> {
        let (namespace, connection) = (&self.host.namespace, &mut self.host.connection);
        foreign::hostile_chains(namespace, connection).map_err(|cause| self.host.unreadable("chains of others", cause))
    }

    fn place(&mut self, table: Table) -> &mut Place {
        match table {
            Table::Host => &mut self.host,
            Table::DataPlane => &mut self.data_plane,
        }
    }

    fn observe_table(
        &mut self,
        table: Table,
        wanted: Wanted<'_>,
    ) -> Result<BTreeMap<NodeObject, Object>, ObserveError> {
        let (vxlan_port, place) = (self.vxlan_port, self.place(table));
        let content = place.observe_content()?;
        let mut observed = BTreeMap::new();
        if wanted.table {
            let structure = place.observe_structure(vxlan_port)?;
            let object = match (structure, content.strange.first()) {
                (Some(Object::Present), Some(set)) => Some(Object::Deviant(format!("set {set} has members of others"))),
                (structure, _) => structure,
            };
            observed.extend(object.map(|object| (NodeObject::Table(table), object)));
        }
        let elements = content.elements.into_iter().map(|(element, object)| (NodeObject::Element(element), object));
        observed.extend(elements.filter(|(id, _)| wanted.includes(id)));
        Ok(observed)
    }

    /// What stands in the kernel when the agent starts is taken over, so that loading a table again keeps it.
    fn adopt(&mut self, observed: &BTreeMap<NodeObject, Object>) {
        if self.adopted {
            return;
        }
        for (id, object) in observed {
            if let (NodeObject::Element(element), Object::Present | Object::Published(..)) = (id, object) {
                self.known.entry(element.clone()).or_insert_with(|| object.clone());
            }
        }
        self.adopted = true;
    }

    fn legs(&self) -> BTreeSet<String> {
        let legs = self.known.keys().filter_map(|element| match element {
            Element::Leg(name) => Some(name.to_string()),
            _ => None,
        });
        legs.collect()
    }

    fn observe_accepts(&mut self) -> Result<Option<Object>, ObserveError> {
        let wanted = self.accepts_wanted.then(|| foreign::Needs { vxlan_port: self.vxlan_port, legs: self.legs() });
        let (namespace, connection) = (&self.host.namespace, &mut self.host.connection);
        let state = foreign::observe(namespace, connection, wanted.as_ref());
        state.map_err(|cause| self.host.unreadable("accepting rules in chains of others", cause))
    }

    fn ensure_accepts(&mut self) -> io::Result<()> {
        let wanted = self.accepts_wanted.then(|| foreign::Needs { vxlan_port: self.vxlan_port, legs: self.legs() });
        foreign::ensure(&self.host.namespace, &mut self.host.connection, wanted.as_ref())
    }

    /// Takes note of what should be there, except elements that cannot be: their steps fail.
    fn remember(&mut self, steps: &[Step], results: &mut [Applied]) {
        for (step, result) in steps.iter().zip(results) {
            match (step.id(), step.result()) {
                (ObjectId::Node(NodeObject::Element(element)), Some(object)) => {
                    *result = check_element(&self.known, step);
                    if result.is_ok() {
                        self.known.insert(element.clone(), object.clone());
                    }
                }
                (ObjectId::Node(NodeObject::Element(element)), None) => {
                    self.known.remove(element);
                }
                (ObjectId::Node(NodeObject::Table(table)), None) => {
                    self.known.retain(|element, _| element.table() != *table);
                }
                _ => {}
            }
        }
    }

    /// Returns whether a table was loaded, and with it every element that is known.
    fn apply_tables(&mut self, table: Table, steps: &[Step], results: &mut [Applied]) -> bool {
        let mut loaded = false;
        for (step, result) in steps.iter().zip(results).filter(|(step, _)| is_table(step, table)) {
            let (vxlan_port, creates) = (self.vxlan_port, step.result().is_some());
            let (place, known) = match table {
                Table::Host => (&mut self.host, &self.known),
                Table::DataPlane => (&mut self.data_plane, &self.known),
            };
            let outcome = if creates { place.load(vxlan_port, known) } else { place.delete() };
            loaded = creates && outcome.is_ok();
            *result = outcome.map_err(|cause| refused(step, cause));
        }
        loaded
    }

    fn apply_elements(&mut self, table: Table, steps: &[Step], results: &mut [Applied]) {
        let possible = |index: &usize| is_element(&steps[*index], table) && results[*index].is_ok();
        let chosen: Vec<usize> = (0..steps.len()).filter(possible).collect();
        let groups: Vec<_> = chosen.iter().map(|index| element_writes(&steps[*index])).collect();
        for (index, result) in chosen.into_iter().zip(self.place(table).write(&groups)) {
            results[index] = result.map_err(|cause| refused(&steps[index], cause));
        }
    }

    /// Where others drop, a leg needs its accepts as soon as it is there and not when somebody looks the next time.
    fn follow_legs(&mut self, steps: &[Step], results: &mut [Applied]) {
        let is_leg = |step: &Step| matches!(step.id(), ObjectId::Node(NodeObject::Element(Element::Leg(_))));
        let is_accepts = |step: &Step| matches!(step.id(), ObjectId::Node(NodeObject::ForeignAccepts));
        let Some(last) = steps.iter().position(is_accepts).or_else(|| steps.iter().rposition(is_leg)) else { return };
        if let Some(step) = steps.iter().rfind(|step| is_accepts(step)) {
            self.accepts_wanted = step.result().is_some();
        }
        if let Err(cause) = self.ensure_accepts() {
            results[last] = Err(StepError {
                action: "accepting the overlay's traffic in chains of others".to_owned(),
                hint: Some("another firewall drops it: run weft doctor, or accept it there by hand"),
                cause,
            });
        }
    }
}

type Applied = Result<(), StepError>;

impl Firewall for NftFirewall {
    fn observe(&mut self, ids: Option<&BTreeSet<NodeObject>>) -> Result<BTreeMap<NodeObject, Object>, ObserveError> {
        let mut observed = BTreeMap::new();
        for table in [Table::Host, Table::DataPlane] {
            let wanted = Wanted { table: ids.is_none_or(|ids| ids.contains(&NodeObject::Table(table))), ids };
            if wanted.touches(table) {
                observed.append(&mut self.observe_table(table, wanted)?);
            }
        }
        if ids.is_none() {
            self.adopt(&observed);
        }
        if ids.is_none_or(|ids| ids.contains(&NodeObject::ForeignAccepts)) {
            observed.extend(self.observe_accepts()?.map(|object| (NodeObject::ForeignAccepts, object)));
        }
        Ok(observed)
    }

    fn apply(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        let mut results: Vec<Applied> = steps.iter().map(not_ours).collect();
        self.remember(steps, &mut results);
        for table in [Table::Host, Table::DataPlane] {
            if !self.apply_tables(table, steps, &mut results) {
                self.apply_elements(table, steps, &mut results);
            }
        }
        self.follow_legs(steps, &mut results);
        results
    }
}

/// What somebody wants to know.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    table: bool,
    ids: Option<&'a BTreeSet<NodeObject>>,
}

impl Wanted<'_> {
    fn includes(&self, id: &NodeObject) -> bool {
        self.ids.is_none_or(|ids| ids.contains(id))
    }

    fn touches(&self, table: Table) -> bool {
        let of_table = |id: &NodeObject| matches!(id, NodeObject::Element(element) if element.table() == table);
        self.table || self.ids.is_none_or(|ids| ids.iter().any(of_table))
    }
}
