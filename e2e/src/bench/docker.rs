//! Docker: connecting a running container and starting one, beside Swarm's overlay and a bridge of the same engine.
//!
//! A lab of its own with an engine on each host, both in one swarm. The engines are asked over their sockets, so that the
//! start of a client is not measured. The container has a network of the user's already: its first one costs Docker more
//! than all networks' drivers together.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::report::{Report, Row, Target, Unit};
use super::{Effort, Samples};
use crate::command::CommandOutput;
use crate::eventually::wait_until;
use crate::lab::{DOCKER_IMAGE, Host, Lab, LabOptions};
use crate::traffic::Asker;
use crate::{dump, http};

const PEER: &str = "Swarm overlay";
const BRIDGE: &str = "Docker bridge";
/// Swarm's VXLAN must not meet ours in one namespace.
const SWARM_PORT: &str = "4795";
/// Longest wait for the first reply.
const DEADLINE: Duration = Duration::from_secs(15);
/// The addresses that the moving container has in each network.
const OURS: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 100);
const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 60, 0, 100);

/// The engine of a host, asked over its socket.
struct Engine {
    socket: PathBuf,
}

impl Engine {
    fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let stream = UnixStream::connect(&self.socket).context("connecting to the engine")?;
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let answer = http::ask(stream, "POST", path, &body).with_context(|| format!("asking the engine for {path}"))?;
        if answer.status >= 300 {
            bail!("the engine answered {path} with {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        }
        Ok(serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    fn connect(&self, network: &str, container: &str, ip: Option<Ipv4Addr>) -> Result<()> {
        let config = ip.map_or_else(|| json!({}), |ip| json!({"IPAMConfig": {"IPv4Address": ip.to_string()}}));
        let wish = json!({"Container": container, "EndpointConfig": config});
        self.post(&format!("/networks/{network}/connect"), &wish).map(drop)
    }

    fn disconnect(&self, network: &str, container: &str) -> Result<()> {
        let wish = json!({"Container": container, "Force": true});
        self.post(&format!("/networks/{network}/disconnect"), &wish).map(drop)
    }
}

pub(super) fn measure(effort: &Effort, progress: &dyn Fn(&str), report: &mut Report) -> Result<()> {
    progress("bringing up two hosts with a Docker engine each, and a swarm of both");
    let options = LabOptions {
        agent_arguments: ["--log", "info,weft_node_agent::docker=debug"].map(str::to_owned).to_vec(),
        require_isolation: false,
        ..LabOptions::with_hosts(2).with_docker()
    };
    let lab = Lab::up(options)?;
    let (h1, h2) = (lab.host(1), lab.host(2));
    make_networks(&h1, &h2)?;
    let askers = [asker(&h1, "ours")?, asker(&h1, "theirs")?];
    progress(&format!("network connect: {} rounds", effort.docker_rounds));
    connects(&h2, &askers, effort.docker_rounds, report)?;
    progress(&format!("starting containers: {} rounds", effort.docker_rounds));
    starts(&h2, effort.docker_rounds, report)?;
    handlers(&h2, report)
}

fn make_networks(h1: &Host, h2: &Host) -> Result<()> {
    h1.docker(&["network", "create", "-d", "weft", "--subnet", "10.50.0.0/16", "ours"])?;
    let address = |host: &Host| host.id().underlay_address().to_string();
    h1.docker(&["swarm", "init", "--advertise-addr", &address(h1), "--data-path-port", SWARM_PORT])?;
    let token = h1.docker(&["swarm", "join-token", "-q", "worker"])?;
    let manager = format!("{}:2377", address(h1));
    h2.docker(&["swarm", "join", "--advertise-addr", &address(h2), "--token", token.trim(), &manager])?;
    h1.docker(&["network", "create", "-d", "overlay", "--attachable", "--subnet", "10.60.0.0/16", "theirs"])?;
    for network in ["base", "beside"] {
        h2.docker(&["network", "create", network])?;
    }
    h2.docker_run("mover", &["--net", "base"])?;
    Ok(())
}

/// A container in a network on one host, in whose namespace questions are asked.
fn asker(host: &Host, network: &str) -> Result<Asker> {
    let name = format!("asks-{network}");
    host.docker_run(&name, &["--net", network])?;
    let pid = host.docker(&["inspect", "-f", "{{.State.Pid}}", &name])?;
    CommandOutput::of(Command::new("ip").args(["netns", "attach", &name, pid.trim()]))?.success()?;
    Asker::open(&name, "eth0")
}

fn connects(host: &Host, askers: &[Asker; 2], rounds: usize, report: &mut Report) -> Result<()> {
    let engine = engine(host);
    let mut returned = [Samples::default(), Samples::default()];
    let mut replied = [Samples::default(), Samples::default()];
    let mut bridge = Samples::default();
    for _ in 0..rounds {
        for (index, (network, ip)) in [("ours", OURS), ("theirs", THEIRS)].into_iter().enumerate() {
            let began = Instant::now();
            let (connected, answered) = std::thread::scope(|scope| {
                let asking = scope.spawn(|| askers[index].first_reply(ip, DEADLINE));
                let connected = engine.connect(network, "mover", Some(ip)).map(|()| began.elapsed());
                (connected, asking.join())
            });
            returned[index].push(connected?.as_secs_f64() * 1e3);
            let answered = answered.map_err(|_| anyhow::anyhow!("asking failed"))??;
            replied[index].push(answered.duration_since(began).as_secs_f64() * 1e3);
            engine.disconnect(network, "mover")?;
        }
        let began = Instant::now();
        engine.connect("beside", "mover", None)?;
        bridge.push(began.elapsed().as_secs_f64() * 1e3);
        engine.disconnect("beside", "mover")?;
    }
    for (key, samples) in [
        ("docker_connect_ms", &returned[0]),
        ("docker_connect_ms_swarm", &returned[1]),
        ("docker_connect_ms_bridge", &bridge),
        ("docker_first_reply_ms", &replied[0]),
        ("docker_first_reply_ms_swarm", &replied[1]),
    ] {
        report.keep(key, samples);
    }
    let row = |what, ours: f64, target, peer| Row {
        key: "D",
        what: String::from(what),
        unit: Unit::Milliseconds,
        ours,
        target,
        peer: Some(peer),
    };
    let (swarm, first) = (returned[1].median(), replied[1].median());
    report.rows.extend([
        row("network connect returns", returned[0].median(), Some(Target::AtMost(swarm / 10.0)), (PEER, swarm)),
        row("network connect to first reply", replied[0].median(), Some(Target::AtMost(first / 20.0)), (PEER, first)),
        row("network connect returns", returned[0].median(), None, (BRIDGE, bridge.median())),
    ]);
    Ok(())
}

/// From the call that starts a container to its answer, in turn in our network and in a bridge.
fn starts(host: &Host, rounds: usize, report: &mut Report) -> Result<()> {
    let engine = engine(host);
    let mut times = [Samples::default(), Samples::default()];
    for _ in 0..rounds {
        for (samples, network) in times.iter_mut().zip(["ours", "base"]) {
            let wish = json!({"Image": DOCKER_IMAGE, "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": network}});
            let made = engine.post("/containers/create?name=starter", &wish)?;
            let id = made["Id"].as_str().context("the engine names no container")?.to_owned();
            let began = Instant::now();
            engine.post(&format!("/containers/{id}/start"), &Value::Null)?;
            samples.push(began.elapsed().as_secs_f64() * 1e3);
            host.docker(&["rm", "-f", "starter"])?;
        }
    }
    let bridge = times[1].median();
    report.keep("docker_start_ms", &times[0]);
    report.keep("docker_start_ms_bridge", &times[1]);
    report.rows.push(Row {
        key: "D",
        what: "container start".to_owned(),
        unit: Unit::Milliseconds,
        ours: times[0].median(),
        target: Some(Target::AtMost(bridge + 30.0)),
        peer: Some((BRIDGE, bridge)),
    });
    Ok(())
}

/// What the agent itself took for the calls of one connect, as it logs it.
fn handlers(host: &Host, report: &mut Report) -> Result<()> {
    let mut total = 0.0;
    for call in ["CreateEndpoint", "Join"] {
        let samples = wait_until(DEADLINE, "logged calls", || {
            let samples = logged(&dump::tail(&host.log(), 100_000), call);
            if samples.median().is_nan() { Err(format!("no {call}")) } else { Ok(samples) }
        })?;
        total += samples.median();
        report.keep(&format!("docker_handler_ms_{call}"), &samples);
    }
    report.rows.push(Row {
        key: "D",
        what: "inside our handlers, per attach".to_owned(),
        unit: Unit::Milliseconds,
        ours: total,
        target: Some(Target::AtMost(10.0)),
        peer: None,
    });
    Ok(())
}

fn logged(log: &str, call: &str) -> Samples {
    let of_call = format!("call=\"{call}\"");
    let lines = log.lines().filter(|line| line.contains("served Docker") && line.contains(&of_call));
    lines.filter_map(|line| line.split("elapsed_ms=").nth(1)?.split(' ').next()?.parse::<f64>().ok()).collect()
}

fn engine(host: &Host) -> Engine {
    Engine { socket: host.docker_socket() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_handlers_are_read_from_the_log() {
        let log = "x DEBUG p: served Docker call=\"Join\" elapsed_ms=2.5\nx DEBUG p: served Docker call=\"Leave\" elapsed_ms=9";

        assert_eq!(logged(log, "Join"), [2.5].into_iter().collect());
    }
}
