//! Virtual machines: the scenarios on them, or a look around.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people to read")]

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use weft_e2e::cluster::Cluster;
use weft_e2e::command::exit_code;
use weft_e2e::scenario::{ALL, Scenario};
use weft_e2e::vm::{self, Machines, Parts};

/// A Weft cluster of virtual machines: run it through e2e/run-isolated.sh, as `make vm-test` does.
///
/// VM_ACCEL=kvm uses the processor's own virtualisation instead of emulation.
#[derive(Debug, Parser)]
#[command(name = "weft-vm", version)]
struct Cli {
    #[command(flatten)]
    places: Places,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct Places {
    /// The folder that e2e/vm/image.sh printed.
    #[arg(long, env = "WEFT_VM_IMAGE", value_name = "DIR")]
    image: PathBuf,
    /// The folder that `make vagrant-dist` fills.
    #[arg(long, env = "WEFT_VM_DIST", value_name = "DIR", default_value = "vagrant/dist")]
    dist: PathBuf,
    /// The script that makes a machine a node.
    #[arg(long, env = "WEFT_VM_PROVISION", value_name = "FILE", default_value = "vagrant/provision.sh")]
    provision: PathBuf,
    /// Where disks, consoles and sockets go.
    #[arg(long, env = "WEFT_VM_RUN", value_name = "DIR", default_value = "target/vm/run")]
    run: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run scenarios: first those for two machines, then those for three.
    Test {
        /// Only these; all unless given.
        #[arg(value_name = "SCENARIO")]
        names: Vec<String>,
    },
    /// Bring machines up and provision them, run a command, and end them with it.
    Up {
        /// How many.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
        nodes: u8,
        /// The command; `weft-vm ssh N CMD` works in it.
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Run a command on a machine as root, or log in to it.
    Ssh {
        /// Which, from 1.
        node: u8,
        /// The command.
        #[arg(trailing_var_arg = true, value_name = "CMD")]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    match act(Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("weft-vm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(cli: Cli) -> Result<u8> {
    let Places { image, dist, provision, run } = cli.places;
    let parts = Parts { image, dist, provision, run };
    match cli.verb {
        Verb::Test { names } => test(parts, &names),
        Verb::Up { nodes, command } => up(parts, nodes, &command),
        Verb::Ssh { node, command } => {
            let error = vm::ssh(&parts.run, &parts.image, node).args(&command).exec();
            Err(error).context("running ssh")
        }
    }
}

fn up(parts: Parts, nodes: u8, words: &[String]) -> Result<u8> {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env("WEFT_VM_IMAGE", &parts.image).env("WEFT_VM_RUN", &parts.run);
    let mut machines = Machines::prepare(parts)?;
    machines.grow(nodes)?;
    let status = command.status().with_context(|| format!("running {}", words[0]))?;
    Ok(exit_code(status))
}

fn test(parts: Parts, names: &[String]) -> Result<u8> {
    let mut chosen: Vec<&Scenario> = if names.is_empty() { ALL.iter().collect() } else { Vec::new() };
    for name in names {
        let Some(scenario) = Scenario::find(name) else {
            let known: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
            bail!("there is no scenario {name}; there are {}", known.join(", "));
        };
        chosen.push(scenario);
    }
    chosen.sort_by_key(|scenario| scenario.nodes);
    let began = Instant::now();
    let mut machines = Machines::prepare(parts)?;
    for (done, scenario) in chosen.iter().enumerate() {
        if machines.nodes() < scenario.nodes {
            machines.grow(scenario.nodes)?;
            println!("vm-test: {} machines are up after {:.0} s", scenario.nodes, began.elapsed().as_secs_f64());
        }
        let begun = Instant::now();
        if let Err(error) = scenario.run(&machines) {
            println!("vm-test: {} FAILED after {:.0} s", scenario.name, begun.elapsed().as_secs_f64());
            eprintln!("{error:#}\n{}", machines.describe());
            println!("vm-test: {done} passed, 1 failed");
            return Ok(1);
        }
        println!("vm-test: {} ok ({:.0} s)", scenario.name, begun.elapsed().as_secs_f64());
    }
    println!("vm-test: took {:.0} s", began.elapsed().as_secs_f64());
    println!("vm-test: {} passed, 0 failed", chosen.len());
    Ok(0)
}
