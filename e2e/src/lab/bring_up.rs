//! Making a lab: names first on record, then namespaces, wires, the store, controller and agents.
//!
//! Each thing is on record before it is made. A failure at any point takes down what there is.

use std::fs;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::state::{DaemonRecord, LabState, NamespaceRecord, NetnsDirectory, RUN_DIRECTORY, StateFile};
use super::{LabError, LabOptions, READY_DEADLINE, docker, host, preflight, take_down};
use crate::eventually::wait_until;
use crate::netns;
use crate::process::{DaemonSpec, ProcessState};
use crate::topology::{CONTROL, EtcdMember, HostId, NamespaceSpec, OUTSIDE_GATEWAY, Topology, UNDERLAY, fixed_name};

mod health;

/// Lines of a log that a failure shows.
const LOG_TAIL_LINES: usize = 20;

/// How long one question to etcd may take before it is asked again.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) fn bring_up(options: LabOptions) -> Result<()> {
    let weft = preflight::check_requirements(&options)?;
    let file = StateFile::lock_for_new()?;
    if file.load()?.is_some() {
        return Err(LabError::AlreadyUp.into());
    }
    let topology = options.topology();
    if let Err(in_the_way) = preflight::check_names_free(&topology) {
        take_down::remove_run_directory()?;
        return Err(in_the_way.into());
    }
    let state = record(options, &topology, weft)?;
    file.save(&state)?;
    make(state, &topology, &file).map_err(|failure| match take_down::take_down_locked(&file) {
        Ok(_) => failure,
        Err(leftover) => failure.context(format!("cleaning up failed as well: {leftover:#}")),
    })
}

fn record(options: LabOptions, topology: &Topology, weft: Option<PathBuf>) -> Result<LabState> {
    let made_here = topology.namespaces().into_iter().flatten();
    let namespaces = made_here
        .map(|spec| spec.name)
        .chain(topology.data_plane_namespaces())
        .map(|name| NamespaceRecord { name, id: None })
        .collect();
    let data_directory = options.data_directory.as_deref().map(free_data_directory).transpose()?;
    let mut state = LabState {
        options,
        weft,
        ready: false,
        netns_directory: NetnsDirectory::observe()?,
        namespaces,
        data_directory,
        daemons: Vec::new(),
        containers: Vec::new(),
    };
    state.daemons = daemons(&state, topology);
    Ok(state)
}

/// The lab removes its data directory, so it must be one that it made.
fn free_data_directory(parent: &Path) -> Result<PathBuf> {
    let directory =
        std::path::absolute(parent).with_context(|| format!("resolving {}", parent.display()))?.join("weft-lab-etcd");
    if directory.exists() {
        bail!("{} exists and is not this lab's; remove it or choose another --data-dir", directory.display());
    }
    Ok(directory)
}

fn make(mut state: LabState, topology: &Topology, file: &StateFile) -> Result<()> {
    make_directories(&state, topology)?;
    make_namespaces(&mut state, topology, file)?;
    let serves_store = |name: &str| name.starts_with("etcd") || topology.members.is_empty() && name == "controller";
    start(&mut state, file, serves_store)?;
    for member in &topology.members {
        wait_store(&state, &member.to_string(), member.client_address())?;
    }
    if topology.members.is_empty() && state.options.agents {
        wait_store(&state, "controller", topology.controller_store())?;
    }
    if state.options.agents {
        start(&mut state, file, |name| !serves_store(name) && !name.starts_with("docker"))?;
        for host in &topology.hosts {
            wait_agent(&state, *host)?;
        }
        check_controller(&state)?;
    }
    if state.options.docker {
        start(&mut state, file, |name| name.starts_with("docker"))?;
        for host in &topology.hosts {
            wait_docker(&state, *host)?;
        }
    }
    state.ready = true;
    file.save(&state)
}

fn make_directories(state: &LabState, topology: &Topology) -> Result<()> {
    let make = |path: PathBuf| fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()));
    make(Path::new(RUN_DIRECTORY).join("log"))?;
    if let Some(directory) = &state.data_directory {
        make(directory.clone())?;
    }
    for host in &topology.hosts {
        make(host::directory(*host).join("state"))?;
        let resolver = host::directory(*host).join("resolv.conf");
        fs::write(&resolver, format!("nameserver {OUTSIDE_GATEWAY}\n"))
            .with_context(|| format!("writing {}", resolver.display()))?;
        if state.options.docker {
            docker::prepare(*host)?;
        }
    }
    Ok(())
}

fn make_namespaces(state: &mut LabState, topology: &Topology, file: &StateFile) -> Result<()> {
    let groups = topology.namespaces();
    let names: Vec<_> = groups.iter().flatten().map(|spec| &spec.name).collect();
    netns::create(&names)?;
    for record in &mut state.namespaces {
        record.id = record.name.observe_id();
    }
    file.save(state)?;
    groups.iter().flatten().try_for_each(set_parameters)?;
    groups.iter().try_for_each(|group| configure_at_once(group))
}

fn configure_at_once(group: &[NamespaceSpec]) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = group.iter().map(|spec| scope.spawn(|| configure(spec))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn set_parameters(spec: &NamespaceSpec) -> Result<()> {
    for (path, value) in &spec.sysctls {
        match path.strip_prefix('?') {
            Some(path) if !Path::new("/proc/sys").join(path).exists() => {}
            Some(path) => spec.name.write_sysctl(path, value)?,
            None => spec.name.write_sysctl(path, value)?,
        }
    }
    Ok(())
}

fn configure(spec: &NamespaceSpec) -> Result<()> {
    spec.name.feed(&["ip", "-batch", "-"], &spec.ip_batch)?;
    match &spec.nft {
        Some(rules) => spec.name.feed(&["nft", "-f", "-"], rules),
        None => Ok(()),
    }
}

fn start(state: &mut LabState, file: &StateFile, wanted: impl Fn(&str) -> bool) -> Result<()> {
    for daemon in &mut state.daemons {
        if wanted(&daemon.name) {
            let process = daemon.spec.start();
            daemon.process = Some(process.with_context(|| format!("starting {}", daemon.name))?);
        }
    }
    file.save(state)
}

fn wait_store(state: &LabState, name: &str, address: SocketAddrV4) -> Result<()> {
    wait_daemon(state, name, || health::observe_store(&fixed_name(CONTROL), address))
}

fn wait_agent(state: &LabState, id: HostId) -> Result<()> {
    let host = super::Host::new(id, state);
    wait_daemon(state, &id.to_string(), || health::observe_agent(&host))
}

fn wait_docker(state: &LabState, id: HostId) -> Result<()> {
    let host = super::Host::new(id, state);
    wait_daemon(state, &docker::daemon_name(id), || docker::observe(&host))?;
    docker::import_image(&host)
}

/// Waits until `probe` is content. A daemon that ended is not waited for.
fn wait_daemon(state: &LabState, name: &str, mut probe: impl FnMut() -> Result<(), String>) -> Result<()> {
    let daemon = find(state, name)?;
    let waited = wait_until(READY_DEADLINE, "readiness", || match (probe(), observe(daemon)) {
        (Ok(()), _) => Ok(Ok(())),
        (Err(status), ProcessState::Stopped) => Ok(Err(status)),
        (Err(status), _) => Err(status),
    });
    let problem = match waited {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(status)) => format!("it ended at once; last status: {status}"),
        Err(timeout) => timeout.to_string(),
    };
    let log = log_tail(daemon);
    bail!("bringing up {name}: {problem}\nend of its log:\n{log}")
}

fn check_controller(state: &LabState) -> Result<()> {
    let controller = find(state, "controller")?;
    match observe(controller) {
        ProcessState::Stopped => {
            bail!("bringing up controller: it ended\nend of its log:\n{}", log_tail(controller))
        }
        ProcessState::Running | ProcessState::Paused => Ok(()),
    }
}

fn observe(daemon: &DaemonRecord) -> ProcessState {
    daemon.process.map_or(ProcessState::Stopped, |process| process.observe_state())
}

fn find<'a>(state: &'a LabState, name: &str) -> Result<&'a DaemonRecord> {
    state
        .daemons
        .iter()
        .find(|daemon| daemon.name == name)
        .with_context(|| format!("looking for {name} in the lab's state"))
}

fn log_tail(daemon: &DaemonRecord) -> String {
    crate::dump::tail(&daemon.spec.log, LOG_TAIL_LINES)
}

fn daemons(state: &LabState, topology: &Topology) -> Vec<DaemonRecord> {
    let mut daemons: Vec<_> = topology.members.iter().map(|member| etcd(state, topology, *member)).collect();
    if let Some(weft) = state.weft.as_deref().filter(|_| state.options.agents) {
        daemons.push(controller(state, topology, weft));
        daemons.extend(topology.hosts.iter().map(|host| agent(state, topology, weft, *host)));
    }
    if state.options.docker {
        daemons.extend(topology.hosts.iter().map(|host| docker::daemon(state, *host)));
    }
    daemons
}

/// Members that start together elect a leader within one election timeout (1 s by default).
/// Compaction keeps ten minutes of history: the store's quota is 2 GiB.
fn etcd(state: &LabState, topology: &Topology, member: EtcdMember) -> DaemonRecord {
    let parent = state.data_directory.as_deref().unwrap_or_else(|| Path::new(RUN_DIRECTORY));
    let cluster: Vec<_> = topology.members.iter().map(|member| format!("{member}={}", member.peer_url())).collect();
    let arguments = [
        format!("--name={member}"),
        format!("--data-dir={}", parent.join(member.to_string()).display()),
        format!("--listen-client-urls={},http://127.0.0.1:2379", member.client_url()),
        format!("--advertise-client-urls={}", member.client_url()),
        format!("--listen-peer-urls={}", member.peer_url()),
        format!("--initial-advertise-peer-urls={}", member.peer_url()),
        format!("--initial-cluster={}", cluster.join(",")),
        "--initial-cluster-token=weft-lab".to_owned(),
        "--initial-cluster-state=new".to_owned(),
        "--auto-compaction-mode=periodic".to_owned(),
        "--auto-compaction-retention=10m".to_owned(),
        "--experimental-watch-progress-notify-interval=5s".to_owned(),
        "--logger=zap".to_owned(),
        "--log-level=warn".to_owned(),
        "--log-outputs=stderr".to_owned(),
    ];
    let mut spec = daemon_spec("etcd".into(), member.netns(), &member.to_string());
    spec.arguments = arguments.to_vec();
    DaemonRecord { name: member.to_string(), spec, process: None }
}

fn controller(state: &LabState, topology: &Topology, weft: &Path) -> DaemonRecord {
    let mut spec = daemon_spec(weft.to_owned(), fixed_name(CONTROL), "controller");
    spec.arguments = vec!["controller".to_owned()];
    if topology.members.is_empty() {
        let parent = state.data_directory.as_deref().unwrap_or_else(|| Path::new(RUN_DIRECTORY));
        let data = parent.join("controller").display().to_string();
        let listen = topology.controller_store().to_string();
        spec.arguments.extend(["--listen".to_owned(), listen, "--data-dir".to_owned(), data]);
    } else {
        spec.arguments.extend(["--etcd".to_owned(), topology.etcd_urls()]);
    }
    spec.arguments.extend_from_slice(&state.options.controller_arguments);
    spec.environment = state.options.environment.clone();
    DaemonRecord { name: "controller".to_owned(), spec, process: None }
}

fn agent(state: &LabState, topology: &Topology, weft: &Path, host: HostId) -> DaemonRecord {
    let name = host.to_string();
    let directory = host::directory(host);
    let path = |file: &str| directory.join(file).display().to_string();
    // Without an engine of its own, a host must not serve the machine's.
    let engine = if state.options.docker { docker::socket(host).display().to_string() } else { "off".to_owned() };
    let plugins = docker::plugins(host).display().to_string();
    let arguments = [
        ("--etcd", topology.etcd_urls()),
        ("--node", name.clone()),
        ("--underlay", UNDERLAY.to_owned()),
        ("--state-dir", path("state")),
        ("--socket", path("weft.sock")),
        ("--netns", host.data_plane_netns().to_string()),
        ("--resolv-conf", path("resolv.conf")),
        ("--docker", engine),
        ("--docker-plugins", plugins),
    ];
    let mut spec = daemon_spec(weft.to_owned(), host.netns(), &name);
    spec.arguments = std::iter::once("agent".to_owned())
        .chain(arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]))
        .chain(state.options.agent_arguments.iter().cloned())
        .collect();
    spec.environment = state.options.environment.clone();
    DaemonRecord { name, spec, process: None }
}

fn daemon_spec(program: PathBuf, netns: netns::NetnsName, name: &str) -> DaemonSpec {
    DaemonSpec {
        program,
        arguments: Vec::new(),
        environment: std::collections::BTreeMap::new(),
        netns,
        log: super::log_path(name),
    }
}
