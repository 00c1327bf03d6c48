//! `weft-bench`: what Weft costs, beside what the wire, a script and its targets say.
//!
//! Parses arguments, calls [`weft_e2e::bench`], prints.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use weft_e2e::LabError;
use weft_e2e::bench::{self, Effort, PARTS, Part, Report};

const AFTER_HELP: &str = "\
The lab of two hosts is made for the run and taken down afterwards. It must not meet another one, so
run it as `make bench` does:

  e2e/run-isolated.sh target/release/weft-bench [OPTIONS]

Figures:
  P1   container to container between two hosts, divided by the wire between the hosts
  P3   attaching a container through the agent's socket, etcd's commit included
  P4   start of attaching until a container on the other host has its first reply
  P6   start of an agent until 100,000 endpoints of others are in its kernel
  P7   processor time of the agent for one change among 100,000 endpoints
  P9   packets lost when the agent or etcd fails, of 1,000 a second each way
  P10  an agent that has nothing to do
  D    Docker's network connect and start, beside Swarm's overlay and a bridge in the same engines

Environment:
  WEFT_BIN  the weft binary; by default the one beside weft-bench, else the one in PATH

Exit status:
  0    everything was measured; targets may be missed, the table says which
  1    something could not be measured; the reason is on standard error
  2    wrong usage
  69   a program that the lab needs is not installed
  77   not root";

/// Measure Weft on this machine, beside its targets and its peers.
#[derive(Debug, Parser)]
#[command(name = "weft-bench", version, after_long_help = AFTER_HELP)]
struct Cli {
    /// About a minute instead of five: fewer repetitions, 10,000 endpoints.
    #[arg(long)]
    quick: bool,
    /// Measure only this; may be given several times.
    #[arg(long = "only", value_enum, value_name = "PART")]
    parts: Vec<PartName>,
    /// A table for people, or JSON with every single measurement for programs.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PartName {
    /// P10.
    Footprint,
    /// P3 and P4.
    Attach,
    /// P9.
    Losses,
    /// P1.
    Throughput,
    /// P6 and P7.
    Scale,
    /// D; needs docker.io.
    Docker,
}

impl From<PartName> for Part {
    fn from(name: PartName) -> Self {
        match name {
            PartName::Footprint => Self::Footprint,
            PartName::Attach => Self::Attach,
            PartName::Losses => Self::Losses,
            PartName::Throughput => Self::Throughput,
            PartName::Scale => Self::Scale,
            PartName::Docker => Self::Docker,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[expect(clippy::print_stderr, reason = "a program reports its failure here")]
fn main() -> ExitCode {
    match measure(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("weft-bench: {error:#}");
            ExitCode::from(error.downcast_ref::<LabError>().map_or(1, LabError::exit_code))
        }
    }
}

/// Answers whether everything could be measured.
#[expect(clippy::print_stderr, reason = "progress is for people, and standard output may be a file")]
fn measure(cli: &Cli) -> Result<bool> {
    let effort = if cli.quick { Effort::quick() } else { Effort::full() };
    let asked: Vec<Part> = cli.parts.iter().copied().map(Part::from).collect();
    let parts = if asked.is_empty() { PARTS.to_vec() } else { asked };
    let report = bench::run(&parts, &effort, &|what| eprintln!("weft-bench: {what}"))?;
    let text = render(&report, cli.output)?;
    io::stdout().lock().write_all(text.as_bytes()).context("printing the report")?;
    Ok(report.failures.is_empty())
}

fn render(report: &Report, output: Output) -> Result<String> {
    match output {
        Output::Table => Ok(report.to_string()),
        Output::Json => Ok(serde_json::to_string_pretty(report).context("encoding the report")? + "\n"),
    }
}
