//! `weft-lab`: three hosts on one machine, to play with and to break.
//!
//! Parses arguments, calls [`weft_e2e`], prints. Everything else is in the library.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use weft_e2e::command::exit_code;
use weft_e2e::{ContainerSpec, EtcdMembers, Lab, LabError, LabOptions, LabStatus};

#[path = "weft-lab/probe.rs"]
mod probe;

/// Status of `exec` and `run` when the lab, not the command, failed; as docker and env do.
const LAB_FAILED: u8 = 125;
const NOT_RUNNABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

const AFTER_HELP: &str = "\
A lab is a set of network namespaces on this machine. Host h1 is the namespace h1, and so on. As on
a Vagrant VM, eth0 has the same NAT address on every host (10.0.2.15, the way out) and eth1 is on
the network between the hosts (192.168.56.11 for h1, .12 for h2). The controller is at 192.168.56.5
and serves the store there; with --etcd-members etcd does, at 192.168.56.2, .3 and .4. Behind the NAT there is nothing but a namespace weft-out
(203.0.113.1, 198.51.100.10, 2001:db8:100::10): no packet reaches the machine's own network.

State and logs are in /run/weft-lab. One lab can be up at a time; e2e/run-isolated.sh runs further
ones beside it.

Examples:
  weft-lab up
  weft-lab exec h1 -- weft network create net1
  weft-lab run h1 ct1 --network net1
  weft-lab run h2 ct2 --network net1 -- ping -c 3 ct1
  weft-lab kill h1; weft-lab start h1
  weft-lab probe ping ct1 ct2 -- weft-lab kill h1
  weft-lab down

Environment:
  WEFT_BIN  the weft binary; by default the one beside weft-lab, else the one in PATH

Exit status:
  0    done
  1    failed; the reason is on standard error
  2    wrong usage
  69   a program that the lab needs is not installed
  77   not root
  exec and run end with the status of their command (128 + signal number when a signal ended it),
  with 126 or 127 when the command cannot be run or found, and with 125 when the lab failed.";

/// Hosts from network namespaces, with a store, controller and agents: a Weft cluster on one machine.
#[derive(Debug, Parser)]
#[command(name = "weft-lab", version, after_long_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the hosts, start everything, and return when every agent is ready.
    Up(Up),
    /// Run a command on a host; `weft` there talks to that host's agent.
    ///
    /// Only the network is the host's: files, processes and users are this machine's.
    Exec {
        /// The host, such as h1.
        host: String,
        /// The command and its arguments.
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Make a container on a host, connect it to networks, and run a command in it.
    ///
    /// The container is a network namespace of that name; it may exist already. With a command, a
    /// container that this call made is disconnected and removed when the command ends. Without,
    /// it stays until `weft-lab rm` or `weft-lab down`.
    Run {
        /// The host, such as h1.
        host: String,
        /// Name of the container; other containers of its networks resolve it.
        name: String,
        /// Connect it to this network, unless it is; may be given several times.
        #[arg(long = "network", value_name = "NET")]
        networks: Vec<String>,
        /// The command and its arguments.
        #[arg(last = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Disconnect a container, end what runs in it, and remove it.
    Rm {
        /// Name of the container.
        name: String,
    },
    /// End with SIGKILL: a host's agent, the controller, or etcd (the controller, if it serves the store).
    Kill(Daemon),
    /// Ask to end with SIGTERM, and wait until it has.
    Stop(Daemon),
    /// Start again with the same arguments; does not wait until it is ready.
    Start(Daemon),
    /// Freeze with SIGSTOP.
    Pause(Daemon),
    /// Let a frozen one go on with SIGCONT.
    Resume(Daemon),
    /// Pull the underlay cable: eth1 loses its carrier.
    Cut(Machine),
    /// Plug the cable in again, and open the way to the store too.
    Heal(Machine),
    /// Cut only the way to etcd and the controller; other hosts stay reachable.
    CutStore(Machine),
    /// Open the way to etcd and the controller again.
    HealStore(Machine),
    /// Ask something of containers without traffic tools: is a broadcast heard, is anything lost, how fast is attaching.
    #[command(subcommand)]
    Probe(probe::Probe),
    /// Show every namespace and process with addresses and cuts.
    Status {
        /// A table for people, or JSON for programs.
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Take everything down: namespaces, devices, processes, mounts, files. May be repeated.
    Down,
}

#[derive(Debug, Args)]
struct Up {
    /// Number of hosts, h1 to hN.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=240))]
    hosts: u8,
    /// MTU of the network between the hosts, in bytes.
    #[arg(long, default_value_t = 1500, value_name = "M", value_parser = clap::value_parser!(u32).range(1280..=65535))]
    underlay_mtu: u32,
    /// Members of etcd instead of the store that the controller serves; of three, one may be lost.
    #[arg(long, default_value = "0", value_parser = ["0", "1", "3"])]
    etcd_members: String,
    /// Start a Docker engine on every host too; `weft-lab exec h1 -- docker ...` talks to that of h1.
    ///
    /// Every engine has the image lab:net, which is busybox. docker-h1 names the engine of h1 for kill, stop and so on.
    #[arg(long)]
    docker: bool,
    /// Keep the store's data below this directory instead of /run/weft-lab.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Start neither controller nor agents. For tests of the lab; may change.
    #[arg(long, hide = true)]
    no_agents: bool,
}

#[derive(Debug, Args)]
struct Daemon {
    /// A host such as h1 (its agent), `controller`, `etcd` (all members), or a member such as etcd1.
    #[arg(value_name = "HOST|controller|etcd")]
    target: String,
}

#[derive(Debug, Args)]
struct Machine {
    /// A host such as h1; also `controller`, `etcd`, or a member such as etcd1.
    #[arg(value_name = "HOST")]
    target: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[expect(clippy::print_stderr, reason = "a program reports its failure here")]
fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    let is_passing_status = matches!(verb, Verb::Exec { .. } | Verb::Run { .. });
    match act(verb) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("weft-lab: {error:#}");
            let refusal = error.downcast_ref::<LabError>();
            let code = refusal.map_or(1, LabError::exit_code);
            ExitCode::from(if is_passing_status { LAB_FAILED } else { code })
        }
    }
}

fn act(verb: Verb) -> Result<u8> {
    let lab = || Lab::open();
    match verb {
        Verb::Up(arguments) => up(arguments)?,
        Verb::Exec { host, command } => return exec(&host, &command),
        Verb::Run { host, name, networks, command } => {
            let spec = ContainerSpec { host, name, networks };
            return run(&spec, &command);
        }
        Verb::Rm { name } => lab()?.remove_container(&name)?,
        Verb::Kill(daemon) => lab()?.kill(&daemon.target)?,
        Verb::Stop(daemon) => lab()?.stop(&daemon.target)?,
        Verb::Start(daemon) => lab()?.start(&daemon.target)?,
        Verb::Pause(daemon) => lab()?.pause(&daemon.target)?,
        Verb::Resume(daemon) => lab()?.resume(&daemon.target)?,
        Verb::Cut(machine) => lab()?.cut(&machine.target)?,
        Verb::Heal(machine) => lab()?.heal(&machine.target)?,
        Verb::CutStore(machine) => lab()?.cut_store(&machine.target)?,
        Verb::HealStore(machine) => lab()?.heal_store(&machine.target)?,
        Verb::Probe(question) => print(&probe::run(question)?)?,
        Verb::Status { output } => print(&render(&lab()?.status()?, output)?)?,
        Verb::Down => {
            if !Lab::down()? {
                print("no lab was up\n")?;
            }
        }
    }
    Ok(0)
}

fn up(arguments: Up) -> Result<()> {
    let hosts = arguments.hosts;
    let options = LabOptions {
        hosts,
        underlay_mtu: arguments.underlay_mtu,
        etcd_members: EtcdMembers::parse(&arguments.etcd_members).context("reading --etcd-members")?,
        docker: arguments.docker,
        data_directory: arguments.data_dir,
        require_isolation: false,
        ..LabOptions::default()
    };
    let lab = Lab::up(if arguments.no_agents { options.without_agents() } else { options })?;
    lab.keep();
    print(&format!(
        "hosts h1 to h{hosts} are up; `weft-lab exec h1 -- CMD` runs CMD on h1, `weft-lab down` takes all down\n"
    ))
}

/// Becomes the command, so that signals and the terminal are its own.
fn exec(host: &str, words: &[String]) -> Result<u8> {
    let host = Lab::open()?.find_host(host)?;
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let mut command = host.command(&words)?;
    host.netns().enter_this_thread()?;
    cannot_run(&command.exec(), words[0])
}

fn run(spec: &ContainerSpec, words: &[String]) -> Result<u8> {
    let lab = Lab::open()?;
    let container = lab.ensure_container(spec)?;
    if words.is_empty() {
        return Ok(0);
    }
    let ended = run_to_end(&mut container.command(words));
    if container.is_new() {
        lab.remove_container(&spec.name).with_context(|| format!("removing container {}", spec.name))?;
    }
    ended
}

/// Waits for the command whatever signal arrives: the container has to be removed afterwards.
///
/// SIGINT and SIGQUIT come from the terminal, which sends them to the command too; the others are
/// handed on.
fn run_to_end(command: &mut Command) -> Result<u8> {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return cannot_run(&error, &command.get_program().to_string_lossy()),
    };
    let pid = Pid::from_raw(i32::try_from(child.id()).context("reading a process id")?);
    let signals =
        SigSet::from_iter([Signal::SIGCHLD, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP]);
    // After the start, because a command inherits the mask.
    signals.thread_block().context("holding back signals")?;
    loop {
        if let Some(status) = child.try_wait().context("waiting for the command")? {
            return Ok(exit_code(status));
        }
        let signal = signals.wait().context("waiting for a signal")?;
        if matches!(signal, Signal::SIGTERM | Signal::SIGHUP) {
            kill(pid, signal).context("handing on a signal")?;
        }
    }
}

#[expect(clippy::print_stderr, reason = "a program reports its failure here")]
fn cannot_run(error: &io::Error, program: &str) -> Result<u8> {
    eprintln!("weft-lab: running {program}: {error}");
    Ok(match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_RUNNABLE,
    })
}

fn render(status: &LabStatus, output: Output) -> Result<String> {
    match output {
        Output::Json => {
            let text = serde_json::to_string_pretty(status).context("encoding the status")?;
            Ok(text + "\n")
        }
        Output::Table => Ok(table(status)),
    }
}

fn table(status: &LabStatus) -> String {
    let header = ["NAME", "KIND", "NETNS", "STATE", "PID", "CUTS", "ADDRESSES"].map(str::to_owned);
    let rows = status.rows.iter().map(|row| {
        let state = match row.state {
            _ if !row.exists => "missing",
            Some(state) => state.as_str(),
            None => "",
        };
        [
            row.name.clone(),
            row.kind.to_owned(),
            row.netns.to_string(),
            state.to_owned(),
            row.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            row.cuts.join(", "),
            row.addresses.join(", "),
        ]
    });
    let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
    let widths: [usize; 7] = std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths);
        let line: String = cells.map(|(cell, width)| format!("{cell:width$}  ")).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    if !status.ready {
        text.push_str("not ready: `weft-lab up` is still at work, or was interrupted\n");
    }
    text
}

/// A reader that has gone, such as `head`, is no failure.
fn print(text: &str) -> Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("printing the answer"),
        _ => Ok(()),
    }
}
