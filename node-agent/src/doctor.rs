//! What stands in an agent's way on this host, found out before it runs: each finding with its remedy.
//!
//! Reads and tries out in throw-away namespaces only; changes nothing.

use std::{os::unix::net::UnixStream, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use weft_overlay::{
    keys::Keyspace,
    store::{
        ListRequest, Store,
        etcd::{EtcdOptions, EtcdStore},
    },
};

use crate::{
    firewall::NftFirewall,
    kernel::host::{self, Features, PortUser},
    netns::Namespace,
    privilege,
    reconciler::chain,
    underlay::choose_underlay,
};

/// What to check for.
#[derive(Debug, Clone)]
pub struct DoctorOptions {
    /// The store; absent: not checked.
    pub store: Option<EtcdOptions>,
    /// The root of the cluster's keys.
    pub keys: Keyspace,
    /// How the VTEP is chosen.
    pub underlay: Option<String>,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// Where the node's identity is kept.
    pub state_dir: PathBuf,
    /// Where the agent listens.
    pub socket: PathBuf,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was checked.
    pub check: String,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// How a check stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// The agent will run, but not as well as it could.
    Warning,
    /// The agent will not run.
    Failure,
}

/// Makes every check, also after one has failed.
pub async fn run(options: &DoctorOptions) -> Vec<Finding> {
    let missing = privilege::missing();
    let mut findings = vec![check_privileges(&missing)];
    if missing.is_empty() {
        findings.extend(check_features());
        findings.extend(check_namespace(options));
    }
    findings.push(check_state_dir(options));
    if let Some(store) = &options.store {
        findings.push(check_store(store.clone(), &options.keys).await);
    }
    findings
}

fn ok(check: &str, detail: impl Into<String>) -> Finding {
    Finding { check: check.to_owned(), verdict: Verdict::Ok, detail: detail.into(), remedy: None }
}

fn trouble(check: &str, verdict: Verdict, detail: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { check: check.to_owned(), verdict, detail: detail.into(), remedy: Some(remedy.into()) }
}

fn check_privileges(missing: &[&str]) -> Finding {
    if missing.is_empty() {
        return ok("privileges", format!("{} are there", listed(privilege::needed())));
    }
    let detail = format!("missing: {}", listed(missing.iter().copied()));
    trouble("privileges", Verdict::Failure, detail, "run the agent, and this check, as root or with these capabilities")
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

fn check_features() -> Vec<Finding> {
    let Features { bridge, vxlan, veth, neighbour_suppression, nftables } = match host::check_features() {
        Ok(features) => features,
        Err(error) => {
            let remedy = "allow network namespaces: a kernel with CONFIG_NET_NS, and no filter against unshare";
            return vec![trouble(
                "kernel",
                Verdict::Failure,
                format!("no network namespace can be made: {error}"),
                remedy,
            )];
        }
    };
    let needed = [
        ("kernel: bridge", bridge, "load the module bridge"),
        ("kernel: vxlan", vxlan, "load the module vxlan"),
        ("kernel: veth", veth, "load the module veth"),
        ("kernel: neighbour suppression", neighbour_suppression, "use Linux 4.15 or later"),
        ("kernel: nftables", nftables, "load the module nf_tables, and install nftables"),
    ];
    let finding = |(check, outcome, remedy): (&str, Result<(), String>, &str)| match outcome {
        Ok(()) => ok(check, "works"),
        Err(reason) => trouble(check, Verdict::Failure, reason, remedy),
    };
    needed.into_iter().map(finding).collect()
}

/// What is looked up in the host's namespace.
fn check_namespace(options: &DoctorOptions) -> Vec<Finding> {
    let here = match Namespace::current() {
        Ok(here) => here,
        Err(error) => return vec![trouble("namespace", Verdict::Failure, chain(&error), "mount /proc")],
    };
    vec![
        check_underlay(options, &here),
        check_port(options, &here),
        check_br_netfilter(&here),
        check_firewall(options, &here),
    ]
}

fn check_underlay(options: &DoctorOptions, here: &Namespace) -> Finding {
    let addresses = match host::addresses(here) {
        Ok(addresses) => addresses,
        Err(error) => return trouble("underlay", Verdict::Failure, chain(&error), "see the kernel's log"),
    };
    match choose_underlay(options.underlay.as_deref(), &addresses) {
        Ok(chosen) => ok("underlay", format!("{} on {}, MTU {}", chosen.address.ip(), chosen.ifname, chosen.mtu)),
        Err(error) => {
            trouble("underlay", Verdict::Failure, error.to_string(), "give --underlay an address of this host")
        }
    }
}

fn check_port(options: &DoctorOptions, here: &Namespace) -> Finding {
    let port = options.vxlan_port;
    let check = "VXLAN port";
    let users = match host::udp_port_users(here, port) {
        Ok(users) => users,
        Err(error) => {
            return trouble(check, Verdict::Warning, format!("it cannot be told: {error}"), "see `ss -lun`");
        }
    };
    if users.is_empty() {
        return ok(check, format!("UDP port {port} is free"));
    }
    let named: Vec<String> = users.iter().map(ToString::to_string).collect();
    let detail = format!("UDP port {port} is in use by {}", named.join(", "));
    if users.iter().any(|user| matches!(user, PortUser::Process { .. })) {
        let remedy = "end the process, or choose another port with --vxlan-port, the same on every node";
        return trouble(check, Verdict::Failure, detail, remedy);
    }
    if UnixStream::connect(&options.socket).is_ok() {
        return ok(check, format!("UDP port {port} is VXLAN's, and an agent is running"));
    }
    let remedy = "if that is not Weft's own of an agent that is stopped, delete it or choose another port with \
                  --vxlan-port, the same on every node";
    trouble(check, Verdict::Warning, detail, remedy)
}

fn check_br_netfilter(here: &Namespace) -> Finding {
    let check = "br_netfilter";
    match host::bridge_netfilter(here) {
        Ok(switches) if switches.iptables.is_none() => ok(check, "is not loaded"),
        Ok(_) => ok(check, "is loaded, and does not matter: bridging happens in a namespace of its own"),
        Err(error) => trouble(check, Verdict::Warning, chain(&error), "see /proc/sys/net/bridge"),
    }
}

fn check_firewall(options: &DoctorOptions, here: &Namespace) -> Finding {
    let check = "firewall";
    let chains = NftFirewall::new(here.clone(), here.clone(), options.vxlan_port)
        .map_err(|error| chain(&error))
        .and_then(|mut firewall| firewall.check_hostile_chains().map_err(|error| chain(&error)));
    match chains {
        Ok(chains) if chains.is_empty() => ok(check, "nothing drops what the overlay needs"),
        Ok(chains) => {
            let shown: Vec<String> =
                chains.iter().map(|c| format!("{} {} {}: {}", tool(&c.tool), c.table, c.chain, c.why)).collect();
            let remedy = "nothing, while the agent runs: it adds accepting rules there, marked \"weft\", and puts them \
                          back when they are flushed";
            trouble(check, Verdict::Warning, shown.join("; "), remedy)
        }
        Err(error) => trouble(check, Verdict::Warning, error, "install nftables"),
    }
}

fn tool(tool: &crate::firewall::Tool) -> String {
    format!("{tool:?}").to_lowercase()
}

fn check_state_dir(options: &DoctorOptions) -> Finding {
    let path = &options.state_dir;
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    let writable = existing.is_some_and(|dir| nix::unistd::access(dir, nix::unistd::AccessFlags::W_OK).is_ok());
    if writable {
        return ok("state directory", format!("{} can be written", path.display()));
    }
    let detail = format!("{} cannot be written", path.display());
    trouble("state directory", Verdict::Failure, detail, "make it writable, or choose another with --state-dir")
}

async fn check_store(options: EtcdOptions, keys: &Keyspace) -> Finding {
    const PATIENCE: Duration = Duration::from_secs(10);
    let check = "etcd";
    let remedy = "check --etcd, the certificates, the way there, and `etcdctl endpoint health`";
    let store = match EtcdStore::connect(options).await {
        Ok(store) => store,
        Err(error) => return trouble(check, Verdict::Failure, chain(&error), remedy),
    };
    let request = ListRequest { range: keys.nodes(), limit: 1, revision: 0, linearizable: true };
    match tokio::time::timeout(PATIENCE, store.list(request)).await {
        Ok(Ok(page)) => ok(check, format!("{} answers, at revision {}", store.endpoint(), page.revision)),
        Ok(Err(error)) => trouble(check, Verdict::Failure, chain(&error), remedy),
        Err(_) => trouble(check, Verdict::Failure, format!("no answer within {} s", PATIENCE.as_secs()), remedy),
    }
}
