//! The `weft` command: the agent, the controller and the tool that talks to the local agent, in one binary.
//!
//! [`args`] says what can be typed, [`config`] what a daemon makes of it, [`client`] how the agent is asked, [`output`]
//! how its answers look, [`exit`] what the shell is told. Nothing here decides what happens to a network: that is the
//! agent's and the controller's part.

mod args;
mod client;
mod commands;
mod config;
mod exit;
mod output;
mod values;

use std::{panic, process::ExitCode};

use clap::Parser;

use crate::{args::Cli, exit::Exit};

fn main() -> ExitCode {
    // The panic's message has been printed by the time that it is caught: what is left is to name it for what it is.
    panic::catch_unwind(run).unwrap_or_else(|_| Exit::Internal.into())
}

fn run() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => commands::run(cli),
        Err(usage) => exit::report_usage(&usage),
    }
}
