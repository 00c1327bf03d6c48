//! `weft controller`: from arguments to a running daemon.

use std::process::ExitCode;

use tracing::{error, info};

use super::daemon::{describe_etcd, observe_host_name, observe_kernel_release, start_log};
use crate::{
    args::{ControllerArgs, GlobalArgs},
    config::{ControllerConfig, Settings},
    exit::{Exit, Failure},
};

/// Validates the settings, starts the log, logs the settings and hands over to the controller.
pub(super) fn start(args: ControllerArgs, global: &GlobalArgs) -> Result<ExitCode, Failure> {
    let settings = Settings { args, socket: global.socket.clone(), host_name: observe_host_name() };
    let config = ControllerConfig::try_from(settings)?;
    start_log(&config.log);
    log_settings(&config);
    Ok(run_controller(config))
}

/// Runs the controller until it is told to end.
#[expect(clippy::needless_pass_by_value, reason = "the controller owns its configuration")]
fn run_controller(config: ControllerConfig) -> ExitCode {
    error!(name = %config.name, "the controller is not linked into this build of weft yet");
    Exit::Internal.into()
}

fn log_settings(config: &ControllerConfig) {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        kernel = observe_kernel_release(),
        name = %config.name,
        etcd = describe_etcd(&config.etcd),
        key_prefix = %config.etcd.key_prefix,
        lost_after_s = config.lost_after.as_secs(),
        log = %config.log.filter,
        "controller starts"
    );
}
