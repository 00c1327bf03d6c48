//! What can be typed: one struct per command, whose doc comments are the help that an operator reads.
//!
//! Values of commands that ask the agent are parsed here, so that a malformed one is a usage error. Values of daemons
//! stay text: [`crate::config`] parses them and reports everything that is wrong with them at once. Must not act.

mod daemon;
mod examples;
mod requests;
mod store;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub(crate) use self::{
    daemon::{AgentArgs, ControllerArgs, DoctorArgs, EtcdArgs, HostArgs, LogArgs, ServingArgs},
    requests::{
        ConnectArgs, DisconnectArgs, EndpointArgs, EndpointCommand, NetworkArgs, NetworkCommand, NodeArgs, NodeCommand,
    },
    store::{BackupArgs, ExportArgs, RestoreArgs, StoreArgs, StoreCommand},
};

/// Where the agent listens unless told otherwise.
pub(crate) const DEFAULT_SOCKET: &str = "/run/weft/weft.sock";

/// Containers on different hosts in one Layer 2 network
///
/// Weft joins containers on different hosts into one Layer 2 network: broadcast and multicast, IPv4 and IPv6, names
/// included. On every host runs `weft agent`; once per cluster, or several times for failover, runs `weft controller`;
/// both share a store: an etcd, or one that a controller serves. Nearly every other command asks the agent of this host over its unix socket, so it works on any node.
///
/// Tables are for people. With --output json each command prints the agent's reply as one JSON value on standard
/// output; what goes wrong is then one JSON object {"error": TEXT, "class": CLASS} on standard error, and standard
/// output stays empty. Usage errors are always text.
#[derive(Debug, Parser)]
#[command(
    name = "weft",
    version,
    after_long_help = examples::WEFT,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes, before or after its name.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct GlobalArgs {
    /// Path of the agent's unix socket
    #[arg(
        long,
        global = true,
        env = "WEFT_SOCKET",
        hide_env_values = true,
        value_name = "S",
        default_value = DEFAULT_SOCKET,
        help_heading = "Global options"
    )]
    pub(crate) socket: PathBuf,
    /// Print for people or for programs
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t = Format::Table,
        help_heading = "Global options"
    )]
    pub(crate) output: Format,
}

/// How replies and errors are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned text for people; its layout may change
    Table,
    /// JSON for programs; its field names do not change
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Agent(Box<AgentArgs>),
    Controller(Box<ControllerArgs>),
    Network(NetworkArgs),
    Connect(Box<ConnectArgs>),
    Disconnect(DisconnectArgs),
    Endpoint(EndpointArgs),
    Node(NodeArgs),
    Store(StoreArgs),
    /// Show how this node is doing
    ///
    /// Shows this agent's view: the store and its revision, whether the kernel is as the store says or what is still to
    /// be done, the networks on this node with their devices and MTU, and what is wrong now. Exits with 0 whenever the
    /// agent answered, converged or not: programs read `converged` and `errors` with --output json.
    #[command(after_long_help = examples::STATUS)]
    Status,
    /// Show what the agent would change now
    ///
    /// Compares what the kernel holds with what it should hold and prints the steps in the order in which they would be
    /// made, without making any. Prints "nothing to do" when there are none. Exits with 0 in both cases: programs read
    /// `steps` with --output json.
    #[command(after_long_help = examples::PLAN)]
    Plan,
    /// Show everything the agent knows
    ///
    /// Prints what the kernel should hold, what it was just read to hold, and what this node knows of the store. Meant
    /// for finding out why `weft plan` says what it says, and for bug reports.
    #[command(after_long_help = examples::DUMP)]
    Dump,
    Doctor(Box<DoctorArgs>),
    /// Show the version of this binary
    ///
    /// Prints the version of the binary that was called. The running agent's version is in `weft status`, those of all
    /// nodes in `weft node ls`.
    #[command(after_long_help = examples::VERSION)]
    Version,
    /// Print a completion script for a shell
    ///
    /// Prints a script that completes commands and options of weft in the given shell.
    #[command(after_long_help = examples::COMPLETION)]
    Completion {
        /// The shell that is to read the script
        #[arg(value_name = "SHELL", value_enum)]
        shell: Shell,
    },
}
