//! Questions about containers of a running lab, each with a yes or a number for an answer: does a broadcast arrive, does a
//! transfer, is anything lost meanwhile, how soon does a new container answer.
//!
//! `weft-lab probe` asks them for users and for the demo; the benchmarks time with the same calls.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::agent_socket::AgentSocket;
use crate::lab::{ContainerSpec, Lab};
use crate::traffic::{self, Asker, Interface, Stream, StreamReport, TcpReport};

/// The interface that a container's first network gets.
const INTERFACE: &str = "eth0";
/// Longest wait for something that takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(10);

/// Sends one broadcast from a container; how many copies each of the others heard.
///
/// # Errors
/// When a container or its interface is missing.
pub fn broadcast(from: &str, listeners: &[String]) -> Result<BTreeMap<String, usize>> {
    let interfaces: Vec<_> = listeners.iter().map(|name| Interface::new(name, INTERFACE)).collect::<Result<_>>()?;
    let heard = traffic::broadcast(&Interface::new(from, INTERFACE)?, &interfaces, SOON)?;
    Ok(listeners.iter().map(|name| (name.clone(), heard.get(name).copied().unwrap_or(0))).collect())
}

/// Sends `bytes` bytes over TCP from one container to another, whose checksums must agree.
///
/// # Errors
/// See [`traffic::tcp_transfer`].
pub fn transfer(from: &str, to: &str, bytes: u64) -> Result<TcpReport> {
    traffic::tcp_transfer(from, to, first_address(to)?, bytes)
}

/// A ping in each direction between two containers.
#[derive(Debug)]
pub struct PingPair {
    streams: [(String, Stream); 2],
}

impl PingPair {
    /// Starts `rate` echo requests per second each way, and waits until both are answered.
    ///
    /// # Errors
    /// When a container is missing or does not answer.
    pub fn start(a: &str, b: &str, rate: u32) -> Result<Self> {
        let one = |from: &str, to: &str| -> Result<(String, Stream)> {
            let address = first_address(to)?;
            Ok((format!("{from} -> {to} ({address})"), Stream::icmp(from, address, rate)?))
        };
        let pair = Self { streams: [one(a, b)?, one(b, a)?] };
        pair.wait_for(u64::from(rate / 10).max(1), SOON)?;
        Ok(pair)
    }

    /// Waits until `count` more replies have arrived each way; at a steady rate this is a clock that stops with the
    /// traffic.
    ///
    /// # Errors
    /// When they have not after `deadline`.
    pub fn wait_for(&self, count: u64, deadline: Duration) -> Result<()> {
        self.streams.iter().try_for_each(|(way, stream)| stream.wait_for(count, deadline).with_context(|| way.clone()))
    }

    /// Ends both; what became of each way.
    ///
    /// # Errors
    /// When a thread of a stream panicked.
    pub fn stop(self) -> Result<[(String, StreamReport); 2]> {
        let [(way, there), (back_way, back)] = self.streams;
        Ok([(way, there.stop()?), (back_way, back.stop()?)])
    }
}

/// How long it took to attach a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachTimes {
    /// Until the agent had answered.
    pub attached: Duration,
    /// Until a container elsewhere had its first reply. It begins to ask when the agent has answered, because nobody knows
    /// the address earlier.
    pub replied: Duration,
}

/// Attaches the named namespace `container` and lets `asker` ask it.
///
/// # Errors
/// When the agent refuses or there is no reply.
pub fn time_attach(agent: &AgentSocket, network: &str, container: &str, asker: &Asker) -> Result<AttachTimes> {
    let began = Instant::now();
    let endpoint = agent.connect(network, container)?;
    let attached = began.elapsed();
    let replied = asker.first_reply(ipv4_of(&endpoint)?, SOON).with_context(|| format!("asking {container}"))?;
    Ok(AttachTimes { attached, replied: replied.saturating_duration_since(began) })
}

/// Attaches `count` containers on `host`, one after the other, while container `from` asks; removes them again.
///
/// # Errors
/// When one cannot be made or attached, or does not reply.
pub fn time_attaches(lab: &Lab, host: &str, network: &str, from: &str, count: u32) -> Result<Vec<AttachTimes>> {
    let agent = lab.find_host(host)?.agent();
    let asker = Asker::open(from, INTERFACE)?;
    let one = |number| {
        let name = format!("probe{number}");
        lab.ensure_container(&ContainerSpec { host: host.to_owned(), name: name.clone(), networks: Vec::new() })?;
        let times = time_attach(&agent, network, &name, &asker);
        let removed = lab.remove_container(&name);
        let times = times?;
        removed.map(|()| times)
    };
    (1..=count).map(one).collect()
}

fn first_address(container: &str) -> Result<IpAddr> {
    let addresses = traffic::addresses_of(container, INTERFACE)?;
    addresses.first().copied().context("an interface without address is refused above")
}

fn ipv4_of(endpoint: &Value) -> Result<Ipv4Addr> {
    let Some(text) = endpoint["ipv4"].as_str() else {
        bail!("the endpoint has no IPv4 address: {endpoint}");
    };
    text.parse().with_context(|| format!("reading address {text:?}"))
}
