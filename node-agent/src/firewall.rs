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

use crate::netns::{Namespace, NetnsError};

mod content;
mod foreign;
mod netlink;
mod render;
mod sets;
mod structure;
mod wire;

pub use foreign::{HostileChain, Tool};
use netlink::{Change, Connection, NfFamily, Write};
use sets::{Set, sets_of, table_of};

/// The part of the kernel that the firewall adapter carries out.
pub trait Firewall: Send {
    /// Reads tables, elements and accepting rules: these, or all. A missing id means that it is not there.
    ///
    /// # Errors
    /// When the kernel cannot be read; then nothing may be concluded.
    fn observe(&mut self, ids: Option<&BTreeSet<NodeObject>>) -> Result<BTreeMap<NodeObject, Object>, ObserveError>;

    /// Carries out steps about tables, elements and accepting rules; the answers are in the order of the steps. What
    /// exists already as wanted, or is missing already, is no error. A failed step does not stop the others.
    fn apply(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>>;
}

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

/// One of our tables and the namespace that it is in.
#[derive(Debug)]
struct Place {
    table: Table,
    namespace: Namespace,
    connection: Connection,
    canonical: Option<structure::Listing>,
    /// The verdict on the structure, and the ruleset's generation that it is about.
    judged: Option<(u32, Option<Object>)>,
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

    fn remember(&mut self, steps: &[Step]) {
        for step in steps {
            match (step.id(), step.result()) {
                (ObjectId::Node(NodeObject::Element(element)), Some(object)) => {
                    self.known.insert(element.clone(), object.clone());
                }
                (ObjectId::Node(NodeObject::Element(element)), None) => {
                    self.known.remove(element);
                }
                (ObjectId::Node(NodeObject::Table(table)), None) => {
                    self.known.retain(|element, _| table_of(element) != *table);
                }
                _ => {}
            }
        }
    }

    /// Loads a table with all elements that are known. When one of them makes `nft` refuse the whole, the table is
    /// loaded without: then each element is written by itself and only the bad one fails.
    fn load(&mut self, table: Table) -> io::Result<Loaded> {
        let full = render::script(table, self.vxlan_port, self.known.iter());
        let empty = render::script(table, self.vxlan_port, std::iter::empty());
        let place = self.place(table);
        place.judged = None;
        let Err(refusal) = structure::within(&place.namespace, || structure::load(&full)) else {
            return Ok(Loaded::WithElements);
        };
        structure::within(&place.namespace, || structure::load(&empty))?;
        tracing::warn!(error = %refusal, "loading a table of the firewall without its elements");
        let groups: Vec<Vec<Write>> = self
            .known
            .iter()
            .filter(|(element, _)| table_of(element) == table)
            .map(|(element, object)| writes(Change::Add, element, object))
            .collect();
        drop(self.place(table).write(&groups));
        Ok(Loaded::Empty)
    }

    fn apply_elements(&mut self, table: Table, steps: &[Step], chosen: &[usize], results: &mut [Applied]) {
        let mut indices = Vec::new();
        let mut groups = Vec::new();
        for &index in chosen {
            match element_writes(&steps[index]) {
                Some(writes) => {
                    indices.push(index);
                    groups.push(writes);
                }
                None => results[index] = Err(impossible(&steps[index])),
            }
        }
        for (index, result) in indices.into_iter().zip(self.place(table).write(&groups)) {
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

/// How a table was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loaded {
    WithElements,
    Empty,
}

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
        self.remember(steps);
        for table in [Table::Host, Table::DataPlane] {
            let mut loaded = Loaded::Empty;
            for (index, step) in steps.iter().enumerate().filter(|(_, step)| is_table(step, table)) {
                let outcome = match step {
                    Step::Delete(..) => self.place(table).delete().map(|()| Loaded::Empty),
                    Step::Create(..) | Step::Replace { .. } => self.load(table),
                };
                match outcome {
                    Ok(how) => loaded = how,
                    Err(cause) => results[index] = Err(refused(step, cause)),
                }
            }
            let chosen: Vec<usize> = (0..steps.len()).filter(|&i| is_element(&steps[i], table)).collect();
            // What the table was loaded with is there already; what cannot be in it has to be said all the same.
            let chosen = chosen.into_iter().filter(|&i| loaded == Loaded::Empty || element_writes(&steps[i]).is_none());
            self.apply_elements(table, steps, &chosen.collect::<Vec<_>>(), &mut results);
        }
        self.follow_legs(steps, &mut results);
        results
    }
}

impl Place {
    fn open(table: Table, namespace: Namespace) -> Result<Self, FirewallError> {
        let opened = namespace.run(Connection::open).map_err(FirewallError::Namespace)?;
        let label = || namespace.label().to_owned();
        let connection = opened.map_err(|cause| FirewallError::Socket { namespace: label(), cause })?;
        Ok(Self { table, namespace, connection, canonical: None, judged: None })
    }

    fn family(&self) -> NfFamily {
        match self.table {
            Table::Host => NfFamily::Inet,
            Table::DataPlane => NfFamily::Bridge,
        }
    }

    fn write(&mut self, groups: &[Vec<Write>]) -> Vec<io::Result<()>> {
        self.connection.write(self.family(), render::TABLE_NAME, groups)
    }

    fn delete(&mut self) -> io::Result<()> {
        self.connection.delete_table(self.family(), render::TABLE_NAME)
    }

    fn unreadable(&self, what: &'static str, cause: io::Error) -> ObserveError {
        ObserveError { what, namespace: self.namespace.label().to_owned(), cause }
    }

    fn observe_content(&mut self) -> Result<content::Content, ObserveError> {
        let family = self.family();
        let dumps: io::Result<Vec<_>> = sets_of(self.table)
            .iter()
            .map(|set: &Set| Ok((*set, self.connection.elements(family, render::TABLE_NAME, set.name())?)))
            .collect();
        dumps
            .map(|dumps| content::read_content(&dumps))
            .map_err(|cause| self.unreadable("nftables set elements", cause))
    }

    /// Listing takes a process, so the verdict is kept as long as nobody commits anything.
    fn observe_structure(&mut self, vxlan_port: u16) -> Result<Option<Object>, ObserveError> {
        let judged = self.judge(vxlan_port);
        judged.map_err(|cause| self.unreadable("an nftables table", cause))
    }

    fn judge(&mut self, vxlan_port: u16) -> io::Result<Option<Object>> {
        let generation = self.connection.generation()?;
        if let Some((of, verdict)) = self.judged.as_ref().filter(|(of, _)| *of == generation) {
            tracing::trace!(generation = of, "nothing was committed since the table was listed");
            return Ok(verdict.clone());
        }
        let verdict = match self.connection.table_flags(self.family(), render::TABLE_NAME)? {
            None => None,
            Some(0) => Some(self.compare(vxlan_port)?),
            Some(_) => Some(Object::Deviant("the table is dormant or owned by a process".to_owned())),
        };
        self.judged = Some((generation, verdict.clone()));
        Ok(verdict)
    }

    fn compare(&mut self, vxlan_port: u16) -> io::Result<Object> {
        let table = self.table;
        if self.canonical.is_none() {
            self.canonical = Some(structure::canonical(table, vxlan_port)?);
        }
        let canonical = self.canonical.as_ref().expect("it was just set");
        let live = structure::within(&self.namespace, || structure::list(table))?;
        Ok(structure::difference(&live, canonical).map_or(Object::Present, Object::Deviant))
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
        let of_table = |id: &NodeObject| matches!(id, NodeObject::Element(element) if table_of(element) == table);
        self.table || self.ids.is_none_or(|ids| ids.iter().any(of_table))
    }
}

fn is_table(step: &Step, table: Table) -> bool {
    matches!(step.id(), ObjectId::Node(NodeObject::Table(of)) if *of == table)
}

fn is_element(step: &Step, table: Table) -> bool {
    matches!(step.id(), ObjectId::Node(NodeObject::Element(element)) if table_of(element) == table)
}

fn not_ours(step: &Step) -> Applied {
    match step.id() {
        ObjectId::Node(NodeObject::Table(_) | NodeObject::Element(_) | NodeObject::ForeignAccepts) => Ok(()),
        _ => Err(refused(step, io::ErrorKind::Unsupported.into())),
    }
}

/// What an element's step writes; nothing when no set can hold what it wants.
fn element_writes(step: &Step) -> Option<Vec<Write>> {
    let ObjectId::Node(NodeObject::Element(element)) = step.id() else { return None };
    match step {
        Step::Create(_, object) => Some(writes(Change::Add, element, object)).filter(|writes| !writes.is_empty()),
        Step::Delete(_, object) => Some(removals(element, object)),
        Step::Replace { observed, desired, .. } => {
            // Only a published port is more than its name; of other elements, what is missing is added.
            let is_published = matches!(element, Element::Published(..));
            let mut all = if is_published && observed != desired { removals(element, observed) } else { Vec::new() };
            let mut additions = writes(Change::Add, element, desired);
            if additions.is_empty() {
                return None;
            }
            all.append(&mut additions);
            Some(all)
        }
    }
}

/// Of a published port whose target is not known, both families are removed.
fn removals(element: &Element, observed: &Object) -> Vec<Write> {
    if let (Element::Published(_, host, _), false) = (element, matches!(observed, Object::Published(..))) {
        let any = [std::net::IpAddr::from([0; 4]), std::net::IpAddr::from([0; 16])];
        let families = any.into_iter().filter(|any| host.is_none_or(|host| host.is_ipv4() == any.is_ipv4()));
        return families.flat_map(|any| writes(Change::Remove, element, &Object::Published(any, 0))).collect();
    }
    writes(Change::Remove, element, observed)
}

fn writes(change: Change, element: &Element, object: &Object) -> Vec<Write> {
    let members = sets::members(element, object).unwrap_or_default();
    let raw = members.iter().flat_map(|member| member.raw().into_iter().map(move |raw| (member.set.name(), raw)));
    raw.map(|(set, element)| Write { change, set, element }).collect()
}

fn impossible(step: &Step) -> StepError {
    StepError {
        action: action(step),
        hint: Some("no set can hold it: addresses of two families, or an interface name with special characters"),
        cause: io::ErrorKind::InvalidInput.into(),
    }
}

fn refused(step: &Step, cause: io::Error) -> StepError {
    StepError { action: action(step), hint: hint(&cause), cause }
}

fn action(step: &Step) -> String {
    match step {
        Step::Create(id, _) => format!("creating {id}"),
        Step::Replace { id, .. } => format!("replacing {id}"),
        Step::Delete(id, _) => format!("deleting {id}"),
    }
}

fn hint(cause: &io::Error) -> Option<&'static str> {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => Some("CAP_NET_ADMIN is missing"),
        io::ErrorKind::NotFound if cause.raw_os_error().is_none() => Some("install the package nftables"),
        io::ErrorKind::NotFound => Some("the table is missing; it is made again in the next pass"),
        io::ErrorKind::Unsupported => Some("this is not the firewall's"),
        _ => None,
    }
}
