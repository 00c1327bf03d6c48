//! A lab with the verbs of the fault tests: networks, containers, agents, and waiting until all is as it should be.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use weft_e2e::dump::Forwarding;
use weft_e2e::{CommandOutput, Host, Lab, dump, eventually, traffic};

use super::etcd::sign_of_life;

/// Longest wait for something that takes milliseconds on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(15);
/// A damage is repaired within a second; another one is for looking at it on a busy machine.
pub(crate) const REPAIR: Duration = Duration::from_secs(2);

/// A running lab that tests share.
#[derive(Debug)]
pub(crate) struct Rig {
    /// The lab.
    pub(crate) lab: Lab,
}

/// A network.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    /// Its name.
    pub(crate) name: String,
    /// Its id.
    pub(crate) id: String,
    /// Its VNI.
    pub(crate) vni: u32,
}

/// A container in a network.
#[derive(Debug, Clone)]
pub(crate) struct Attached {
    /// Its namespace.
    pub(crate) netns: String,
    /// Number of its host.
    pub(crate) host: u8,
    /// The network's name.
    pub(crate) network: String,
    /// The endpoint's id.
    pub(crate) id: String,
    /// Its IPv4 address.
    pub(crate) v4: Ipv4Addr,
    /// Its IPv6 address.
    pub(crate) v6: Ipv6Addr,
    /// Its Ethernet address.
    pub(crate) mac: String,
}

impl Rig {
    /// Host `number`, counted from 1.
    pub(crate) fn host(&self, number: u8) -> Host {
        self.lab.host(number)
    }

    /// Makes a network through the agent of h1.
    pub(crate) fn network(&self, name: &str, arguments: &[&str]) -> Network {
        let answer = self.host(1).weft_json(&[&["network", "create", name], arguments].concat()).unwrap();
        let vni = &answer["vni"];
        let vni = vni.as_u64().or_else(|| vni.as_str()?.parse().ok()).unwrap();
        Network { name: text(&answer, "name"), id: text(&answer, "id"), vni: u32::try_from(vni).unwrap() }
    }

    /// Makes a container's namespace on a host, in no network yet.
    pub(crate) fn container(&self, host: u8, name: &str) {
        self.lab.run_container(host, name, &[]).unwrap();
    }

    /// Makes a container and connects it.
    pub(crate) fn attach(&self, host: u8, name: &str, network: &str, arguments: &[&str]) -> Attached {
        self.container(host, name);
        self.connect(host, name, network, arguments)
    }

    /// Connects a container.
    pub(crate) fn connect(&self, host: u8, name: &str, network: &str, arguments: &[&str]) -> Attached {
        let words = [&["connect", network, name], arguments].concat();
        attached(host, name, &self.host(host).weft_json(&words).unwrap()).unwrap()
    }

    /// Connects a container, and hands back what `weft` said when it refused.
    pub(crate) fn try_connect(&self, host: u8, name: &str, network: &str, arguments: &[&str]) -> CommandOutput {
        self.host(host).try_weft(&[&["connect", network, name], arguments].concat()).unwrap()
    }

    /// Disconnects a container.
    pub(crate) fn disconnect(&self, container: &Attached) {
        self.host(container.host).weft(&["disconnect", &container.network, &container.netns]).unwrap();
    }

    /// The containers of a network, as the agent of a host lists them.
    pub(crate) fn endpoints(&self, host: u8, network: &str) -> Result<Vec<Value>> {
        let answer = self.host(host).weft_json(&["endpoint", "ls", "--network", network])?;
        let endpoints = answer.as_array().context("reading the list of endpoints")?;
        Ok(endpoints.iter().filter(|endpoint| endpoint["kind"] != "leg").cloned().collect())
    }

    /// What `weft status` says on a host.
    pub(crate) fn status(&self, host: u8) -> Result<Value> {
        self.host(host).weft_json(&["status"])
    }

    /// The id of a host's node.
    pub(crate) fn node(&self, host: u8) -> String {
        text(&self.status(host).unwrap(), "id")
    }

    /// Waits until a host's agent is registered and has converged.
    #[track_caller]
    pub(crate) fn wait_ready(&self, host: u8) {
        eventually(SOON * 2, &format!("agent of h{host} ready"), || {
            let status = self.status(host).map_err(|error| format!("{error:#}"))?;
            let is_ready = status["converged"] == true && status["standing"] == "active";
            if is_ready { Ok(()) } else { Err(status.to_string()) }
        });
    }

    /// Waits until every agent has converged and shows a sign of life, and every kernel holds what the store asks for.
    #[track_caller]
    pub(crate) fn settle(&self) {
        for host in self.lab.hosts().unwrap() {
            self.wait_ready(host.id().number());
            self.wait_alive(host.id().number());
        }
        self.wait_forwarding();
    }

    /// Waits until the store has a host's sign of life. An agent hears of the end of its lease only when it has its
    /// way to the store back, and keeps what it may do meanwhile: its status does not tell.
    #[track_caller]
    pub(crate) fn wait_alive(&self, host: u8) {
        let node = self.node(host);
        eventually(SOON, &format!("a sign of life of h{host}"), || {
            let life = sign_of_life(&self.lab, &node).map_err(|error| format!("{error:#}"))?;
            ensure(life.is_some(), || "none".to_owned())
        });
    }

    /// Waits until every host's kernel holds what the store asks for.
    #[track_caller]
    pub(crate) fn wait_forwarding(&self) {
        eventually(SOON, "rows as the store asks for", || dump::check_forwarding(&self.lab));
    }

    /// Compares some hosts' kernels with the store: for while other hosts' agents are down.
    pub(crate) fn check_forwarding_of(&self, hosts: &[u8]) -> Result<(), String> {
        let differences = || -> Result<Vec<String>> {
            let store = dump::store(&self.lab)?;
            let mut lines = Vec::new();
            for host in hosts.iter().map(|number| self.host(*number)) {
                let wanted = Forwarding::of_store(&store, host.id().underlay_address().into())?;
                let present = Forwarding::of_kernel(&dump::kernel(&host)?);
                lines.extend(present.differences(&wanted).into_iter().map(|line| format!("{}: {line}", host.name())));
            }
            Ok(lines)
        };
        let lines = differences().map_err(|error| format!("{error:#}"))?;
        if lines.is_empty() { Ok(()) } else { Err(lines.join("\n")) }
    }

    /// Runs a program in a host's data plane.
    pub(crate) fn in_data_plane(&self, host: u8, words: &[&str]) -> Result<String> {
        self.lab.in_netns(self.host(host).data_plane_netns().as_str(), words)
    }

    /// Names of a network's bridge and VXLAN device on a host.
    pub(crate) fn devices(&self, host: u8, network: &Network) -> (String, String) {
        let kernel = dump::kernel(&self.host(host)).unwrap();
        let name = |link: Option<&dump::Link>| link.unwrap().name.clone();
        (name(kernel.bridge(network.vni)), name(kernel.vxlan(network.vni)))
    }

    /// Asks for a name in a container, with the container's resolver.
    pub(crate) fn resolve(&self, container: &Attached, name: &str) -> Result<String> {
        self.lab.in_netns(&container.netns, &["getent", "ahostsv4", name])
    }

    /// Waits until a container has no network interface: devices of a detached endpoint are deleted late, in groups.
    #[track_caller]
    pub(crate) fn wait_bare(&self, netns: &str) {
        eventually(SOON, &format!("{netns} in no network"), || {
            let inside = self.addresses_inside(netns);
            ensure(inside.is_empty(), || format!("{inside:?}"))
        });
    }

    /// The IPv4 addresses that a container really has on its network interfaces.
    pub(crate) fn addresses_inside(&self, netns: &str) -> Vec<String> {
        let listing = self.lab.in_netns(netns, &["ip", "-json", "-4", "address", "show", "scope", "global"]).unwrap();
        let links: Value = serde_json::from_str(&listing).unwrap();
        let links = links.as_array().unwrap().iter();
        let addresses = links.flat_map(|link| link["addr_info"].as_array().cloned().unwrap_or_default());
        addresses.filter_map(|address| Some(address["local"].as_str()?.to_owned())).collect()
    }
}

/// One ping each way, both families.
#[track_caller]
pub(crate) fn assert_connected(one: &Attached, other: &Attached) {
    for (from, to) in [(one, other), (other, one)] {
        for address in [to.v4.into(), to.v6.into()] {
            if let Err(error) = traffic::ping(&from.netns, address, SOON) {
                panic!("{} does not reach {}: {error:#}", from.netns, to.netns);
            }
        }
    }
}

/// Asserts that `weft` refused, and with which words.
#[track_caller]
pub(crate) fn assert_refused(output: &CommandOutput, words: &[&str]) {
    assert!(!output.is_success(), "`{}` was not refused: {}", output.line, output.stdout);
    for word in words {
        assert!(output.stderr.contains(word), "`{}` does not say {word:?} but: {}", output.line, output.stderr);
    }
}

/// A condition of a probe.
pub(crate) fn ensure(holds: bool, seen: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(seen()) }
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("{field} is missing in {value}")).to_owned()
}

/// Decodes an endpoint as `weft connect` and `weft endpoint ls` print it.
pub(crate) fn attached(host: u8, netns: &str, endpoint: &Value) -> Result<Attached> {
    let field = |name: &str| endpoint[name].as_str().with_context(|| format!("reading {name} of {endpoint}"));
    Ok(Attached {
        netns: netns.to_owned(),
        host,
        network: field("network")?.to_owned(),
        id: field("id")?.to_owned(),
        v4: field("ipv4")?.parse()?,
        v6: field("ipv6")?.parse()?,
        mac: field("mac")?.to_owned(),
    })
}
