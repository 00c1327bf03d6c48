//! The `weft` binary as a shell sees it: help, output, errors and exit codes, against an agent that answers by script.

#![expect(clippy::unwrap_used, reason = "this crate is tests, also where its functions are not marked so")]

mod daemons;
mod errors;
mod fake_agent;
mod golden;
mod help;
mod output;
mod replies;
mod service;
mod store;
mod streams;

use std::{
    ffi::OsStr,
    process::{Command, Output, Stdio},
};

/// The binary in an empty environment and without a terminal.
fn weft<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

/// Exit code, standard output and standard error.
fn outcome(output: Output) -> (i32, String, String) {
    let code = output.status.code().expect("the command was not ended by a signal");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    (code, text(output.stdout), text(output.stderr))
}

fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> (i32, String, String) {
    outcome(weft(args).output().expect("the binary can be started"))
}
