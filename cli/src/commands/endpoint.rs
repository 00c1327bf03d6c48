//! `weft connect`, `weft disconnect` and `weft endpoint`.

use std::process::ExitCode;

use weft_node_agent::api::messages::{Connect, Disconnect, Endpoint};

use super::ask;
use crate::{
    args::{ConnectArgs, DisconnectArgs, EndpointCommand, Format, GlobalArgs},
    client::{AgentRequest, Client},
    exit::{self, Exit, Failure},
    output::{self, printable},
};

pub(super) fn connect(args: ConnectArgs, global: &GlobalArgs) -> Result<ExitCode, Failure> {
    attach(AgentRequest::connect(&Connect::from(args)), global)
}

pub(super) fn disconnect(args: DisconnectArgs, global: &GlobalArgs) -> Result<ExitCode, Failure> {
    attach(AgentRequest::disconnect(&Disconnect::from(args)), global)
}

pub(super) fn run(command: EndpointCommand, global: &GlobalArgs) -> Result<ExitCode, Failure> {
    match command {
        EndpointCommand::Ls { network, node, all } => {
            let request = AgentRequest::endpoints(network.as_ref(), node.as_ref(), all);
            let mut endpoints: Vec<Endpoint> = Client::new(&global.socket).call(request)?;
            endpoints.retain(|endpoint| all || endpoint.kind == "container");
            output::show(&endpoints, global.output)?;
            Ok(Exit::Ok.into())
        }
        EndpointCommand::Inspect { id } => ask::<Endpoint>(global, AgentRequest::endpoint(id)),
    }
}

/// Prints the endpoint, and its warnings apart from it: in JSON they are part of the object.
fn attach(request: AgentRequest, global: &GlobalArgs) -> Result<ExitCode, Failure> {
    let endpoint: Endpoint = Client::new(&global.socket).call(request)?;
    if global.output == Format::Table {
        for warning in &endpoint.warnings {
            exit::write_stderr(&format!("warning: {}", printable(warning)));
        }
    }
    output::show(&endpoint, global.output)?;
    Ok(Exit::Ok.into())
}
