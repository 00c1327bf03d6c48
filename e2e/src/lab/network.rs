//! Networks and attachments as `weft` reports them, and refusals as it words them.
//!
//! Field names are read as they are promised to programs; a missing one fails the test that asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::Value;

use super::{Host, Lab};

/// A network, as `weft network create` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// The VXLAN network identifier.
    pub vni: u32,
    /// Its subnets, IPv4 first.
    pub subnets: Vec<IpNetwork>,
    /// Their gateways, in the same order.
    pub gateways: Vec<IpAddr>,
    /// MTU in bytes.
    pub mtu: u32,
}

/// An endpoint, as `weft connect` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Endpoint {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its network's name.
    pub network: String,
    /// Its node's name.
    pub node: String,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Its Ethernet address.
    pub mac: String,
    /// Its state.
    pub state: String,
    /// `container` or `leg`.
    pub kind: String,
    /// The interface's name in the container.
    pub ifname: Option<String>,
    /// What the user should know.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What a network consists of on one node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Devices {
    /// The network's name.
    pub name: String,
    /// The bridge, in the data plane's namespace.
    pub bridge: String,
    /// The VXLAN device, in the data plane's namespace.
    pub vxlan: String,
    /// The gateway leg's end in the host's namespace.
    pub leg: String,
}

/// What `weft` answers when it does not do what it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Exit status.
    pub status: u8,
    /// The class in JSON, or `usage`.
    pub class: String,
    /// What is said to the user.
    pub error: String,
}

impl Endpoint {
    /// Its IPv4 address.
    ///
    /// # Panics
    /// When it has none: a mistake of the test.
    #[must_use]
    #[track_caller]
    pub fn v4(&self) -> IpAddr {
        self.ipv4.expect("the test asks for IPv4 where there is some").into()
    }

    /// Its IPv6 address.
    ///
    /// # Panics
    /// When it has none: a mistake of the test.
    #[must_use]
    #[track_caller]
    pub fn v6(&self) -> IpAddr {
        self.ipv6.expect("the test asks for IPv6 where there is some").into()
    }

    /// Both its addresses.
    #[must_use]
    #[track_caller]
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4(), self.v6()]
    }

    /// Its Ethernet address as bytes.
    ///
    /// # Panics
    /// When it is malformed.
    #[must_use]
    #[track_caller]
    pub fn mac_bytes(&self) -> [u8; 6] {
        let parts = self.mac.split(':').map(|part| u8::from_str_radix(part, 16));
        let bytes: Result<Vec<_>, _> = parts.collect();
        bytes.ok().and_then(|bytes| bytes.try_into().ok()).expect("weft prints well-formed Ethernet addresses")
    }
}

impl Refusal {
    /// True when the text for the user has every one of `words`.
    #[must_use]
    pub fn says(&self, words: &[&str]) -> bool {
        words.iter().all(|word| self.error.contains(word))
    }
}

impl Host {
    /// Runs `weft` and decodes what it must not answer: refusals go to standard error as one JSON object, and
    /// standard output stays empty. Malformed command lines are refused in plain text with status 2.
    ///
    /// # Errors
    /// When it succeeds, or fails in another form.
    pub fn refusal(&self, arguments: &[&str]) -> Result<Refusal> {
        let output = self.try_weft(&[arguments, &["--output", "json"]].concat())?;
        if output.is_success() {
            bail!("`{}` was not refused: {}", output.line, output.stdout);
        }
        if !output.stdout.is_empty() {
            bail!("`{}` was refused and still printed: {}", output.line, output.stdout);
        }
        if output.status == 2 && !output.stderr.starts_with('{') {
            return Ok(Refusal { status: 2, class: "usage".to_owned(), error: output.stderr });
        }
        let said: Value = serde_json::from_str(output.stderr.trim_end())
            .with_context(|| format!("decoding what `{}` says: {}", output.line, output.stderr))?;
        let text = |key: &str| said[key].as_str().map(str::to_owned).with_context(|| format!("no {key} in {said}"));
        Ok(Refusal { status: output.status, class: text("class")?, error: text("error")? })
    }

    /// The endpoints that `weft endpoint ls` lists with these further arguments.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn endpoints(&self, arguments: &[&str]) -> Result<Vec<Endpoint>> {
        let answer = self.weft_json(&[&["endpoint", "ls"], arguments].concat())?;
        serde_json::from_value(answer).context("decoding endpoints")
    }

    /// What the agent would change now, by `weft plan`.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn plan(&self) -> Result<Vec<String>> {
        let mut answer = self.weft_json(&["plan"])?;
        serde_json::from_value(answer["steps"].take()).context("decoding a plan")
    }

    /// The names of a network's devices on this node, by `weft status`.
    ///
    /// # Errors
    /// When the agent does not answer or the network is not on this node.
    pub fn devices(&self, network: &str) -> Result<Devices> {
        let mut status = self.weft_json(&["status"])?;
        let networks: Vec<Devices> = serde_json::from_value(status["networks"].take()).context("decoding networks")?;
        let devices = networks.into_iter().find(|devices| devices.name == network);
        devices.with_context(|| format!("looking for network {network} on {}", self.name()))
    }

    /// This node's own leg in a network.
    ///
    /// # Errors
    /// When the agent does not answer or the node has none.
    pub fn leg(&self, network: &str) -> Result<Endpoint> {
        let endpoints = self.endpoints(&["--all", "--network", network])?;
        let own = endpoints.into_iter().find(|endpoint| endpoint.kind == "leg" && endpoint.node == self.name());
        own.with_context(|| format!("looking for the leg of {} in {network}", self.name()))
    }
}

impl Lab {
    /// Creates a network, on the first host; `options` are those of `weft network create`.
    ///
    /// # Errors
    /// When it is refused.
    pub fn create_network(&self, name: &str, options: &[&str]) -> Result<Network> {
        let answer = self.find_host("h1")?.weft_json(&[&["network", "create", name], options].concat())?;
        serde_json::from_value(answer).context("decoding a network")
    }

    /// Makes container `name` on host `host`, counted from 1, unless it is there, and connects it to a network;
    /// `options` are those of `weft connect`.
    ///
    /// # Errors
    /// When it is refused.
    pub fn attach(&self, host: u8, name: &str, network: &str, options: &[&str]) -> Result<Endpoint> {
        let container = self.run_container(host, name, &[])?;
        let answer = container.host().weft_json(&[&["connect", network, name], options].concat())?;
        serde_json::from_value(answer).context("decoding an endpoint")
    }
}
