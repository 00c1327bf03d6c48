//! Counting what exists on a host, to find what leaks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;
use weft_e2e::dump::KernelDump;
use weft_e2e::netns::{NETNS_DIRECTORY, NetnsName};
use weft_e2e::{Host, Lab};

/// What one host and its agent hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Census {
    namespaces: BTreeSet<String>,
    links: BTreeSet<String>,
    fdb_rows: usize,
    neighbours: usize,
    /// Elements of sets by set, in the host's namespace and the data plane's.
    elements: BTreeMap<String, usize>,
    descriptors: usize,
    resolvers: usize,
}

impl Census {
    /// Counts.
    pub(crate) fn take(lab: &Lab, host: &Host) -> Result<Self> {
        let (data_plane, own) = (host.data_plane_netns(), host.netns());
        let (inside, outside) = (KernelDump::observe(&data_plane)?, KernelDump::observe(&own)?);
        let links = |netns: &NetnsName, dump: &KernelDump| -> Vec<String> {
            dump.links.iter().map(|link| format!("{netns} {}", link.name)).collect()
        };
        let is_kept = |row: &&weft_e2e::dump::NeighbourRow| row.states.iter().any(|state| state == "PERMANENT");
        Ok(Self {
            namespaces: file_names(NETNS_DIRECTORY)?,
            links: links(&data_plane, &inside).into_iter().chain(links(&own, &outside)).collect(),
            fdb_rows: inside.fdb.len(),
            neighbours: inside.neighbours.iter().chain(&outside.neighbours).filter(is_kept).count(),
            elements: [("inside", &inside), ("outside", &outside)]
                .into_iter()
                .flat_map(|(place, dump)| dump.nftables.iter().filter_map(move |object| elements(place, object)))
                .collect(),
            descriptors: descriptors(lab, host)?,
            resolvers: file_names("/etc/netns")?.len(),
        })
    }

    /// What differs from an earlier census, one line each.
    pub(crate) fn differences(&self, before: &Self) -> Vec<String> {
        let sets = [("namespaces", &before.namespaces, &self.namespaces), ("links", &before.links, &self.links)];
        let sets = sets.into_iter().flat_map(|(what, before, now)| {
            let gone = before.difference(now).map(move |name| format!("{what}: {name} is gone"));
            gone.chain(now.difference(before).map(move |name| format!("{what}: {name} is new")))
        });
        let numbers = [
            ("FDB rows", before.fdb_rows, self.fdb_rows),
            ("neighbours", before.neighbours, self.neighbours),
            ("descriptors of the agent", before.descriptors, self.descriptors),
            ("resolver files", before.resolvers, self.resolvers),
        ];
        let numbers = numbers
            .into_iter()
            .filter(|(_, before, now)| before != now)
            .map(|(what, before, now)| format!("{what}: {before} before, {now} now"));
        let elements = (before.elements != self.elements)
            .then(|| format!("elements: {:?} before, {:?} now", before.elements, self.elements));
        sets.chain(numbers).chain(elements).collect()
    }
}

fn file_names(directory: &str) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(directory).with_context(|| format!("listing {directory}"))?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

fn elements(place: &str, object: &Value) -> Option<(String, usize)> {
    let set = object.get("set").or_else(|| object.get("map"))?;
    let count = set["elem"].as_array().map_or(0, Vec::len);
    Some((format!("{place} {} {}", set["table"], set["name"]), count))
}

fn descriptors(lab: &Lab, host: &Host) -> Result<usize> {
    let rows = lab.status()?.rows;
    let row = rows.into_iter().find(|row| row.name == host.name()).context("finding the agent")?;
    let pid = row.pid.context("finding the agent's process")?;
    Ok(file_names(&format!("/proc/{pid}/fd"))?.len())
}
