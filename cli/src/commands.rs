//! One module per group of commands: arguments in, a request to the agent or a daemon's start, a reply out.
//!
//! Must not parse texts, know the socket's protocol or lay out pages.

mod agent;
mod controller;
mod daemon;
mod doctor;
mod endpoint;
mod network;
mod node;
mod overview;
mod shell;
mod store;

use std::process::ExitCode;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    args::{Cli, Command, GlobalArgs},
    client::{AgentRequest, Client},
    exit::{self, Exit, Failure},
    output::{self, Page},
};

/// Runs the command and returns what the shell is told.
pub(crate) fn run(cli: Cli) -> ExitCode {
    let Cli { global, command } = cli;
    let result = match command {
        Command::Agent(args) => agent::start(*args, &global),
        Command::Controller(args) => controller::start(*args, &global),
        Command::Network(args) => network::run(args.command, &global),
        Command::Connect(args) => endpoint::connect(*args, &global),
        Command::Disconnect(args) => endpoint::disconnect(args, &global),
        Command::Endpoint(args) => endpoint::run(args.command, &global),
        Command::Node(args) => node::run(args.command, &global),
        Command::Store(args) => store::run(args.command, &global),
        Command::Status => overview::status(&global),
        Command::Plan => overview::plan(&global),
        Command::Dump => overview::dump(&global),
        Command::Doctor(args) => doctor::run(*args, &global),
        Command::Version => shell::version(&global),
        Command::Completion { shell } => shell::completion(shell),
    };
    result.unwrap_or_else(|failure| exit::report(&failure, global.output))
}

/// Asks the agent and prints its reply.
fn ask<T>(global: &GlobalArgs, request: AgentRequest) -> Result<ExitCode, Failure>
where
    T: DeserializeOwned + Serialize + Page,
{
    let reply: T = Client::new(&global.socket).call(request)?;
    output::show(&reply, global.output)?;
    Ok(Exit::Ok.into())
}
