//! `weft-lab probe`: questions about containers, asked without traffic tools.
//!
//! Prints what was seen and fails when it is not what a network owes its containers. The asking is
//! [`weft_e2e::probe`]'s.

use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use weft_e2e::probe::{self, AttachTimes, PingPair};
use weft_e2e::{CommandOutput, Lab};

/// Longest pause in a ping that may end well.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Subcommand)]
pub(super) enum Probe {
    /// Send one broadcast from a container; each of the others must hear it exactly once.
    Broadcast {
        /// The container that sends.
        from: String,
        /// Those that must hear it.
        #[arg(required = true)]
        listeners: Vec<String>,
    },
    /// Send data over TCP from one container to another and compare checksums.
    Transfer {
        /// The container that sends.
        from: String,
        /// The container that receives.
        to: String,
        /// How many bytes.
        #[arg(long, default_value_t = 1_000_000)]
        bytes: u64,
    },
    /// Ping in both directions between two containers while a command runs; no packet may be lost.
    Ping(Ping),
    /// Attach new containers on a host, and time each until the agent answered and until another container got its first reply.
    Attach {
        /// The host.
        host: String,
        /// The network.
        network: String,
        /// The container that asks the new ones, on another host.
        #[arg(long)]
        from: String,
        /// How many, one after the other; they are removed again.
        #[arg(long, default_value_t = 10)]
        count: u32,
    },
}

#[derive(Debug, Args)]
pub(super) struct Ping {
    /// A container.
    a: String,
    /// Another one.
    b: String,
    /// Packets per second, each way.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// How long to go on after the command, in seconds.
    #[arg(long, default_value_t = 1)]
    seconds: u32,
    /// What to do meanwhile.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// What was seen, as text.
pub(super) fn run(probe: Probe) -> Result<String> {
    match probe {
        Probe::Broadcast { from, listeners } => broadcast(&from, &listeners),
        Probe::Transfer { from, to, bytes } => {
            let report = probe::transfer(&from, &to, bytes)?;
            let (milliseconds, checksum) = (report.elapsed.as_millis(), report.checksum);
            Ok(format!("{from} -> {to}: {bytes} bytes in {milliseconds} ms, checksum {checksum:016x} at both ends\n"))
        }
        Probe::Ping(options) => ping(&options),
        Probe::Attach { host, network, from, count } => {
            let times = probe::time_attaches(&Lab::open()?, &host, &network, &from, count)?;
            Ok(attach_table(&times))
        }
    }
}

fn broadcast(from: &str, listeners: &[String]) -> Result<String> {
    let heard = probe::broadcast(from, listeners)?;
    let mut text = String::new();
    for (listener, copies) in &heard {
        writeln!(text, "copies of the broadcast of {from} that {listener} heard: {copies}")?;
    }
    if heard.values().any(|copies| *copies != 1) {
        bail!("each should have heard exactly one:\n{text}");
    }
    Ok(text)
}

fn ping(options: &Ping) -> Result<String> {
    let pair = PingPair::start(&options.a, &options.b, options.rate)?;
    let mut text = String::new();
    if let Some((program, arguments)) = options.command.split_first() {
        text = CommandOutput::of(Command::new(program).args(arguments))?.success()?;
    }
    let more = u64::from(options.rate) * u64::from(options.seconds);
    let waited = pair.wait_for(more, LONGEST_SILENCE + Duration::from_secs(options.seconds.into()));
    let reports = pair.stop()?;
    for (way, report) in &reports {
        writeln!(text, "{way}: {report}")?;
    }
    if reports.iter().any(|(_, report)| report.lost > 0) {
        bail!("packets were lost:\n{text}");
    }
    waited.context("waiting for replies")?;
    Ok(text)
}

fn attach_table(times: &[AttachTimes]) -> String {
    let spread = |part: fn(&AttachTimes) -> Duration| {
        let mut sorted: Vec<_> = times.iter().map(part).collect();
        sorted.sort();
        let at = |index: usize| sorted.get(index).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
        format!("{:8.1} {:8.1} {:8.1}", at(0), at(sorted.len() / 2), at(sorted.len().saturating_sub(1)))
    };
    format!(
        "{} containers, in ms               least   median     most\n\
         attached: the agent has answered  {}\n\
         first reply at the other host     {}\n",
        times.len(),
        spread(|times| times.attached),
        spread(|times| times.replied),
    )
}
