//! What the shell is told: exit codes, and errors in the form that was asked for.
//!
//! The codes are those of sysexits.h where one fits, and a promise to scripts and to systemd units, which should not
//! restart on 77 and 78. Must not decide whether something failed.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use serde_json::json;
use thiserror::Error;
use weft_node_agent::api::messages::ErrorClass;
use weft_overlay::{cause::chain, store::StoreError};

use crate::{
    args::Format,
    client::ClientError,
    config::ConfigError,
    output::{OutputError, printable},
    values::ValueError,
};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// Refused or failed.
    Failed = 1,
    /// Malformed command line.
    Usage = 2,
    /// The agent, the store or an address of this host is unavailable: EX_UNAVAILABLE.
    Unavailable = 69,
    /// A defect of weft: EX_SOFTWARE.
    Internal = 70,
    /// Missing privilege: EX_NOPERM.
    Privilege = 77,
    /// Bad configuration: EX_CONFIG.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    Value(#[from] ValueError),
    #[error("{0:#}")]
    Daemon(anyhow::Error),
    #[error("{0:#}")]
    Store(anyhow::Error),
}

impl Failure {
    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Client(ClientError::Denied { .. }) => Exit::Privilege,
            Self::Client(ClientError::Refused(reply)) if reply.class != ErrorClass::Unavailable => Exit::Failed,
            Self::Client(ClientError::Runtime { .. } | ClientError::Request { .. }) => Exit::Internal,
            Self::Client(_) => Exit::Unavailable,
            Self::Config(_) | Self::Daemon(_) => Exit::Config,
            Self::Store(error) if error.downcast_ref::<StoreError>().is_some_and(StoreError::is_transient) => {
                Exit::Unavailable
            }
            Self::Output(_) | Self::Store(_) => Exit::Failed,
            Self::Value(_) => Exit::Usage,
        }
    }

    /// The class in JSON: those of the agent, and `privilege` and `configuration`, which it does not know.
    pub(crate) fn class(&self) -> &'static str {
        match self {
            Self::Client(ClientError::Refused(reply)) => match reply.class {
                ErrorClass::Invalid => "invalid",
                ErrorClass::NotFound => "not_found",
                ErrorClass::Conflict => "conflict",
                ErrorClass::Unavailable => "unavailable",
                ErrorClass::Internal => "internal",
            },
            _ => match self.exit() {
                Exit::Privilege => "privilege",
                Exit::Config => "configuration",
                Exit::Unavailable => "unavailable",
                Exit::Usage => "invalid",
                Exit::Ok | Exit::Failed | Exit::Internal => "internal",
            },
        }
    }
}

/// Prints the failure on standard error and returns its exit code.
pub(crate) fn report(failure: &Failure, format: Format) -> ExitCode {
    let message = chain(failure);
    let line = match format {
        // A list of lines, whose values are quoted already.
        Format::Table if matches!(failure, Failure::Config(_)) => format!("error: {message}"),
        Format::Table => format!("error: {}", printable(&message)),
        Format::Json => json!({ "error": message, "class": failure.class() }).to_string(),
    };
    write_stderr(&line);
    failure.exit().into()
}

/// Prints what clap has to say: help on standard output, a usage error on standard error.
pub(crate) fn report_usage(usage: &clap::Error) -> ExitCode {
    // A reader that has gone away needs no help.
    usage.print().ok();
    if usage.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() }
}

/// Prints a line on standard error. If that fails, nobody is left to be told.
pub(crate) fn write_stderr(line: &str) {
    writeln!(io::stderr().lock(), "{line}").ok();
}
