//! `weft version` and `weft completion`, which need no agent.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{
    args::{Cli, GlobalArgs},
    exit::{Exit, Failure},
    output::{self, Version},
};

pub(super) fn version(global: &GlobalArgs) -> Result<ExitCode, Failure> {
    output::show(&Version::THIS, global.output)?;
    Ok(Exit::Ok.into())
}

pub(super) fn completion(shell: Shell) -> Result<ExitCode, Failure> {
    // Into memory first: the generator panics when the reader goes away.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "weft", &mut script);
    output::write_stdout(&script)?;
    Ok(Exit::Ok.into())
}
