//! One of our tables in its namespace: read, compared, written to.

use std::{collections::BTreeMap, io};

use weft_overlay::kernel::{Element, Object, ObserveError, Table};

use super::{
    FirewallError,
    content::{Content, read_content},
    netlink::{Change, Connection, NfFamily, Write},
    render::{self, Manner},
    sets::{Set, sets_of},
    steps, structure,
};
use crate::netns::Namespace;

/// One of our tables and the namespace that it is in.
#[derive(Debug)]
pub(super) struct Place {
    table: Table,
    pub(super) namespace: Namespace,
    pub(super) connection: Connection,
    canonical: Option<structure::Listing>,
    /// The verdict on the structure, and the ruleset's generation that it is about.
    judged: Option<(u32, Option<Object>)>,
}

impl Place {
    pub(super) fn open(table: Table, namespace: Namespace) -> Result<Self, FirewallError> {
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

    pub(super) fn write(&mut self, groups: &[Vec<Write>]) -> Vec<io::Result<()>> {
        self.connection.write(self.family(), render::TABLE_NAME, groups)
    }

    /// Puts the table right, with these elements in it, in one transaction: where it stands by refilling it, and else, or
    /// when that does not make it right, anew.
    pub(super) fn load(&mut self, vxlan_port: u16, known: &BTreeMap<Element, Object>) -> io::Result<()> {
        let stands = self.connection.table_flags(self.family(), render::TABLE_NAME)?.is_some();
        if stands && self.replace(Manner::Refill, vxlan_port, known).is_ok() {
            let verdict = self.judge(vxlan_port)?;
            if verdict == Some(Object::Present) {
                return Ok(());
            }
        }
        let Err(refusal) = self.replace(Manner::Anew, vxlan_port, known) else { return Ok(()) };
        // One of the elements makes nft refuse the whole: then each is written by itself, and only the bad one is missing.
        self.replace(Manner::Anew, vxlan_port, &BTreeMap::new())?;
        tracing::warn!(error = %refusal, "loaded a table of the firewall without its elements");
        let groups: Vec<Vec<Write>> = known
            .iter()
            .filter(|(element, _)| element.table() == self.table)
            .map(|(element, object)| steps::writes(Change::Add, element, object))
            .collect();
        let refused = self.write(&groups).into_iter().find_map(Result::err);
        refused.map_or(Ok(()), Err)
    }

    fn replace(&self, manner: Manner, vxlan_port: u16, elements: &BTreeMap<Element, Object>) -> io::Result<()> {
        let script = render::script(manner, self.table, vxlan_port, elements.iter());
        structure::within(&self.namespace, || structure::load(&script))
    }

    pub(super) fn delete(&mut self) -> io::Result<()> {
        self.connection.delete_table(self.family(), render::TABLE_NAME)
    }

    pub(super) fn unreadable(&self, what: &'static str, cause: io::Error) -> ObserveError {
        ObserveError { what, namespace: self.namespace.label().to_owned(), cause }
    }

    pub(super) fn observe_content(&mut self) -> Result<Content, ObserveError> {
        let family = self.family();
        let dumps: io::Result<Vec<_>> = sets_of(self.table)
            .iter()
            .map(|set: &Set| Ok((*set, self.connection.elements(family, render::TABLE_NAME, set.name())?)))
            .collect();
        dumps.map(|dumps| read_content(&dumps)).map_err(|cause| self.unreadable("nftables set elements", cause))
    }

    /// Listing takes a process, so the verdict is kept as long as nobody commits anything.
    pub(super) fn observe_structure(&mut self, vxlan_port: u16) -> Result<Option<Object>, ObserveError> {
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
