//! Arguments of `weft store`, which looks after the store that a controller serves.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::examples;
use crate::values::EtcdUrl;

/// Look after the store that a controller serves
///
/// Works on the directory of a store, or between two stores; needs no running agent. Everything but `restore` may be
/// used while the controller runs.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(subcommand_required = true, arg_required_else_help = true, after_long_help = examples::STORE)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    pub(crate) command: StoreCommand,
}

/// What to do with a store.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum StoreCommand {
    /// Show what a store holds, and check it
    ///
    /// Reads the whole store and checks every record. Exits with 1 when there is none, or it is damaged.
    #[command(after_long_help = examples::STORE_STATUS)]
    Status(DataDirArgs),
    Backup(BackupArgs),
    Restore(RestoreArgs),
    Export(ExportArgs),
}

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct DataDirArgs {
    /// Directory of the store, as the controller has it
    #[arg(long, env = "WEFT_DATA_DIR", hide_env_values = true, value_name = "DIR", default_value = "/var/lib/weft")]
    pub(crate) data_dir: PathBuf,
}

/// Copy a store to a file
///
/// The copy is the store at one revision, checked, and on the disk when the command ends. An existing file is left as
/// it is.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_long_help = examples::STORE_BACKUP)]
pub(crate) struct BackupArgs {
    /// The file to make
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) data_dir: DataDirArgs,
}

/// Make a store of a backup
///
/// The directory must have no store. Start the controller afterwards: agents notice that the store is another one and
/// take nothing away at once. Containers that were connected after the backup must be connected again. The revision is
/// set far ahead of what any agent has seen.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_long_help = examples::STORE_RESTORE)]
pub(crate) struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) data_dir: DataDirArgs,
}

/// Copy a cluster's keys to another store
///
/// Moves a cluster to an etcd of several members, and back: stop the controllers, export, and start controllers and
/// agents with the new store's URL. Containers keep talking meanwhile. Keys on leases stay behind: they only show who
/// is alive. Refused when the other store has such keys already.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_long_help = examples::STORE_EXPORT)]
pub(crate) struct ExportArgs {
    /// URL of the store to write to
    #[arg(long, value_name = "URL")]
    pub(crate) to: EtcdUrl,
    /// URL of the store to read from, instead of a directory
    #[arg(long, value_name = "URL")]
    pub(crate) from: Option<EtcdUrl>,
    /// What the keys to copy begin with
    #[arg(long, env = "WEFT_KEY_PREFIX", hide_env_values = true, value_name = "PREFIX", default_value = "/weft/v1/")]
    pub(crate) key_prefix: String,
    /// File with the authority (PEM) of https URLs
    #[arg(long, env = "WEFT_ETCD_CA", hide_env_values = true, value_name = "FILE")]
    pub(crate) etcd_ca: Option<PathBuf>,
    /// File with a client certificate (PEM) for https URLs; goes with --etcd-key
    #[arg(long, env = "WEFT_ETCD_CERT", hide_env_values = true, value_name = "FILE")]
    pub(crate) etcd_cert: Option<PathBuf>,
    /// File with the private key (PEM) of --etcd-cert
    #[arg(long, env = "WEFT_ETCD_KEY", hide_env_values = true, value_name = "FILE")]
    pub(crate) etcd_key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) data_dir: DataDirArgs,
}
