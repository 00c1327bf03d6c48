//! `weft network`.

use std::process::ExitCode;

use weft_node_agent::api::messages::{CreateNetwork, Network, RemovedNetwork};

use super::ask;
use crate::{
    args::{GlobalArgs, NetworkCommand},
    client::AgentRequest,
    exit::Failure,
};

pub(super) fn run(command: NetworkCommand, global: &GlobalArgs) -> Result<ExitCode, Failure> {
    match command {
        NetworkCommand::Create(args) => {
            let network = CreateNetwork::try_from(args)?;
            ask::<Network>(global, AgentRequest::create_network(&network))
        }
        NetworkCommand::Ls => ask::<Vec<Network>>(global, AgentRequest::networks()),
        NetworkCommand::Inspect { name } => ask::<Network>(global, AgentRequest::network(&name)),
        NetworkCommand::Rm { name, force } => ask::<RemovedNetwork>(global, AgentRequest::remove_network(&name, force)),
    }
}
