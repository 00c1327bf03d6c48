//! `weft node`.

use std::process::ExitCode;

use weft_node_agent::api::messages::Node;

use super::ask;
use crate::{
    args::{GlobalArgs, NodeCommand},
    client::AgentRequest,
    exit::Failure,
};

pub(super) fn run(command: NodeCommand, global: &GlobalArgs) -> Result<ExitCode, Failure> {
    match command {
        NodeCommand::Ls => ask::<Vec<Node>>(global, AgentRequest::nodes()),
        NodeCommand::Inspect { name } => ask::<Node>(global, AgentRequest::node(&name)),
        NodeCommand::Drain { name, undo } => ask::<Node>(global, AgentRequest::drain_node(&name, undo)),
        NodeCommand::Rm { name, force } => ask::<Node>(global, AgentRequest::remove_node(&name, force)),
    }
}
