//! `weft status`, `weft plan` and `weft dump`: what the agent thinks of itself.

use std::process::ExitCode;

use weft_node_agent::api::messages::{DumpReply, PlanReply, Status};

use super::ask;
use crate::{args::GlobalArgs, client::AgentRequest, exit::Failure};

pub(super) fn status(global: &GlobalArgs) -> Result<ExitCode, Failure> {
    ask::<Status>(global, AgentRequest::status())
}

pub(super) fn plan(global: &GlobalArgs) -> Result<ExitCode, Failure> {
    ask::<PlanReply>(global, AgentRequest::plan())
}

pub(super) fn dump(global: &GlobalArgs) -> Result<ExitCode, Failure> {
    ask::<DumpReply>(global, AgentRequest::dump())
}
