//! Accepting rules of ours in the tables of others, where those would drop what the overlay needs.
//!
//! A verdict of accept in our table does not spare a packet the chains of other tables, so with a DROP there it has to be
//! accepted there. That opens nothing: our own chains run just before theirs and have dropped what must not pass.
//! Tables that do not exist are never made, rules of others never changed; where nobody drops, nothing is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
};

use weft_overlay::kernel::Object;

use super::{
    netlink::{BaseChain, Connection, NfFamily},
    render::TABLE_NAME,
    structure::{self, within},
};
use crate::netns::Namespace;
use chains::{Chains, Hook};

mod chains;
mod native;
mod xtables;

/// The mark on every rule of ours in the table of somebody else.
const MARK: &str = "weft";

/// Who keeps a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// `iptables` and `ip6tables` on top of nftables.
    IptablesNft,
    /// `iptables` and `ip6tables` with their own kernel interface.
    IptablesLegacy,
    /// `nft`, or a program that speaks to nftables by itself.
    Nft,
}

/// A chain of somebody else's that drops traffic of the overlay, unless accepting rules of ours precede.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostileChain {
    /// Who keeps it.
    pub tool: Tool,
    /// Family and name of its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// What in it drops.
    pub why: String,
}

/// What has to be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needs {
    /// VXLAN arrives at this UDP port.
    pub(super) vxlan_port: u16,
    /// Host ends of the legs.
    pub(super) legs: BTreeSet<String>,
}

/// A table of somebody else's that has a chain at input, forward or output.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ForeignTable {
    tool: Tool,
    family: Family,
    name: String,
    chains: Chains,
}

/// The family of a table, with `nft`'s name for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    Ip,
    Ip6,
    Inet,
}

/// One run of a program that puts one table right.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Repair {
    program: &'static str,
    arguments: &'static [&'static str],
    input: String,
    /// What is wrong.
    what: String,
}

/// Whether the accepts are as they should be; absent when they are not wanted and there are none.
pub(super) fn observe(
    namespace: &Namespace,
    connection: &mut Connection,
    needs: Option<&Needs>,
) -> io::Result<Option<Object>> {
    let tables = match read_tables(namespace, connection)? {
        Ok(tables) => tables,
        Err(unreadable) => return Ok(Some(Object::Deviant(unreadable.to_string()))),
    };
    Ok(match (repairs(&tables, needs).into_iter().next(), needs) {
        (Some(repair), _) => Some(Object::Deviant(repair.what)),
        (None, Some(_)) => Some(Object::Present),
        (None, None) => None,
    })
}

/// Puts the accepts right, or removes them when they are not wanted. Writes nothing where nothing is wrong.
pub(super) fn ensure(namespace: &Namespace, connection: &mut Connection, needs: Option<&Needs>) -> io::Result<()> {
    let tables = read_tables(namespace, connection)??;
    let mut outcome = Ok(());
    for repair in repairs(&tables, needs) {
        let run = || structure::run_with_input(repair.program, repair.arguments, &repair.input);
        if let Err(error) = within(namespace, run) {
            outcome = Err(io::Error::new(error.kind(), format!("{}: {error}", repair.what)));
        }
    }
    outcome
}

/// The chains that drop traffic of the overlay.
pub(super) fn hostile_chains(namespace: &Namespace, connection: &mut Connection) -> io::Result<Vec<HostileChain>> {
    let tables = read_tables(namespace, connection)??;
    let hostile = tables.iter().flat_map(|table| {
        table.chains.base_chains().filter_map(move |(chain, hook)| {
            let why = table.chains.hostility(chain)?;
            let remark = if hook == Hook::Output { " (nothing is accepted there for you)" } else { "" };
            let place = format!("{} {}", table.family, table.name);
            Some(HostileChain {
                tool: table.tool,
                table: place,
                chain: chain.to_owned(),
                why: format!("{why}{remark}"),
            })
        })
    });
    Ok(hostile.collect())
}

fn repairs(tables: &[ForeignTable], needs: Option<&Needs>) -> Vec<Repair> {
    let repair = |table: &ForeignTable| match table.tool {
        Tool::Nft => native::repair(table, needs),
        Tool::IptablesNft | Tool::IptablesLegacy => xtables::repair(table, needs),
    };
    tables.iter().filter_map(repair).collect()
}

/// All tables that matter. The inner error means that one of them is kept by a tool that is missing or refuses.
fn read_tables(namespace: &Namespace, connection: &mut Connection) -> io::Result<Result<Vec<ForeignTable>, io::Error>> {
    let places = places(&connection.base_chains()?);
    let has_legacy = within(namespace, || Ok(legacy_families()))?;
    if places.is_empty() && has_legacy.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    Ok(within(namespace, || {
        let legacy = has_legacy.into_iter().map(|family| xtables::read(Tool::IptablesLegacy, family));
        places.iter().map(|((family, name), kept)| read_table(*family, name, *kept)).chain(legacy).collect()
    }))
}

/// Tables by family and name, and whether iptables would call them its own.
fn places(chains: &[BaseChain]) -> BTreeMap<(Family, String), bool> {
    let relevant = chains.iter().filter(|chain| chain.kind == "filter" && Hook::numbered(chain.hook).is_some());
    let mut places = BTreeMap::new();
    for chain in relevant {
        let Some(family) = Family::numbered(chain.family) else { continue };
        let is_ours = family == Family::Inet && chain.table == TABLE_NAME;
        let of_iptables = family != Family::Inet && xtables::is_table(&chain.table);
        // The other tables of iptables cannot be written natively, and hardly anybody filters there.
        let skipped = of_iptables && chain.table != "filter";
        if !is_ours && !skipped {
            let kept = places.entry((family, chain.table.clone())).or_insert(false);
            *kept |= of_iptables && xtables::is_chain(&chain.name);
        }
    }
    places
}

fn read_table(family: Family, name: &str, of_iptables: bool) -> io::Result<ForeignTable> {
    if of_iptables {
        match xtables::read(Tool::IptablesNft, family) {
            Err(error) if error.to_string().contains("incompatible") => {}
            read => return read,
        }
    }
    native::read(family, name)
}

/// The families that iptables' own kernel interface filters in the namespace of the calling thread.
fn legacy_families() -> Vec<Family> {
    let has_filter =
        |path: &str| fs::read_to_string(path).is_ok_and(|names| names.lines().any(|name| name == "filter"));
    let files = [(Family::Ip, "ip_tables_names"), (Family::Ip6, "ip6_tables_names")];
    let found = files.into_iter().filter(|(_, file)| has_filter(&format!("/proc/thread-self/net/{file}")));
    found.map(|(family, _)| family).collect()
}

impl Family {
    fn numbered(number: u8) -> Option<Self> {
        let families = [(NfFamily::Ip, Self::Ip), (NfFamily::Ip6, Self::Ip6), (NfFamily::Inet, Self::Inet)];
        families.into_iter().find(|(known, _)| *known as u8 == number).map(|(_, family)| family)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
        })
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
            Self::Nft => "nft",
        })
    }
}
