//! `weft controller`: from arguments to a running daemon.

use std::process::ExitCode;

use tracing::{error, info};

use rand::{SeedableRng, rngs::StdRng};
use weft_controller::ControllerSettings;
use weft_overlay::{keys::Keyspace, store::etcd::EtcdStore};

use super::daemon::{
    describe_etcd, etcd_options, observe_host_name, observe_kernel_release, run_daemon, start_log, termination,
};
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
    Ok(run_controller(&config))
}

/// Runs the controller until it is told to end.
fn run_controller(config: &ControllerConfig) -> ExitCode {
    let outcome = run_daemon(async {
        let store = EtcdStore::connect(etcd_options(&config.etcd)?).await?;
        let keys = Keyspace::under(&config.etcd.key_prefix.to_string());
        let settings = ControllerSettings { lost_after: config.lost_after, ..ControllerSettings::default() };
        let rng = StdRng::from_rng(&mut rand::rng());
        tokio::select! {
            // Whatever the controller was doing, another one can finish: every write names its conditions.
            () = weft_controller::run(store, keys, settings, rng) => {}
            () = termination()? => info!("shutting down"),
        }
        Ok(())
    });
    match outcome {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            error!(error = %format!("{failure:#}"), "the controller ended");
            Exit::Config.into()
        }
    }
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
