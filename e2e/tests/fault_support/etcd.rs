//! The store as an operator handles it: etcdctl in the controller's namespace.

use anyhow::{Context, Result};
use serde_json::Value;
use weft_e2e::topology::{CONTROL, EtcdMember};
use weft_e2e::{Lab, dump};

/// Runs etcdctl against every member; its standard output.
pub(crate) fn etcdctl(lab: &Lab, words: &[&str]) -> Result<String> {
    let endpoints = format!("--endpoints={}", lab.topology()?.etcd_urls());
    lab.in_netns(CONTROL, &[&["etcdctl", "--command-timeout=3s", &endpoints], words].concat())
}

/// Waits for the store's answer to a write.
pub(crate) fn is_writable(lab: &Lab) -> Result<(), String> {
    etcdctl(lab, &["put", "/probe", "1"]).map(drop).map_err(|error| format!("{error:#}"))
}

/// Ends one lease.
pub(crate) fn revoke(lab: &Lab, lease: i64) -> Result<()> {
    etcdctl(lab, &["lease", "revoke", &format!("{lease:x}")]).map(drop)
}

/// Ends every lease that there is; how many.
pub(crate) fn revoke_everything(lab: &Lab) -> Result<usize> {
    let answer = etcdctl(lab, &["lease", "list"])?;
    let leases: Vec<_> = answer.lines().skip(1).map(str::trim).filter(|line| !line.is_empty()).collect();
    leases.iter().try_for_each(|lease| etcdctl(lab, &["lease", "revoke", lease]).map(drop))?;
    Ok(leases.len())
}

/// The member that leads now.
pub(crate) fn leader(lab: &Lab) -> Result<EtcdMember> {
    let answer: Value = serde_json::from_str(&etcdctl(lab, &["endpoint", "status", "-w", "json"])?)
        .context("decoding the members' status")?;
    let statuses = answer.as_array().context("reading the members' status")?;
    let leads = |status: &&Value| status["Status"]["leader"] == status["Status"]["header"]["member_id"];
    let leading = statuses.iter().find(leads).context("finding the leader")?;
    let url = leading["Endpoint"].as_str().context("reading the leader's URL")?;
    let members = lab.topology()?.members;
    members.into_iter().find(|member| member.client_url() == url).context("finding the leader among the members")
}

/// The sign of life of a node: when its key was made, and its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SignOfLife {
    /// Changes only when the key had gone.
    pub(crate) created: i64,
    /// The lease that it hangs on.
    pub(crate) lease: i64,
}

/// Reads a node's sign of life; `None` when there is none.
pub(crate) fn sign_of_life(lab: &Lab, node: &str) -> Result<Option<SignOfLife>> {
    let store = dump::store(lab)?;
    let entry = store.entry(&format!("live/{node}"));
    Ok(entry.map(|entry| SignOfLife { created: entry.create_revision, lease: entry.lease }))
}
