//! `weft controller`: from arguments to a running daemon.

use std::{fs, future::Future, path::Path, process::ExitCode};

use anyhow::Context as _;

use tracing::{error, info};

use rand::{SeedableRng, rngs::StdRng};
use sd_notify::NotifyState;
use weft_controller::ControllerSettings;
use weft_embedded_store::{EmbeddedStore, OpenError, StoreError, StoreOptions, TlsFiles};
use weft_overlay::{keys::Keyspace, store::etcd::EtcdStore};

use super::daemon::{
    describe_etcd, etcd_options, observe_host_name, observe_kernel_release, run_daemon, start_log, tell_manager,
    termination,
};
use crate::{
    args::{ControllerArgs, GlobalArgs},
    config::{ControllerConfig, ServingConfig, ServingTls, Settings, StoreConfig},
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
        match &config.store {
            StoreConfig::Etcd(etcd) => {
                let store = EtcdStore::connect(etcd_options(etcd)?).await?;
                let until = termination()?;
                tell_manager(&[NotifyState::Ready]);
                Box::pin(control(config, store, until)).await;
            }
            StoreConfig::Own(serving) => Box::pin(serve_and_control(config, serving)).await?,
        }
        Ok(())
    });
    match outcome {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            error!(error = %format!("{failure:#}"), "the controller ended");
            exit_of(&failure).into()
        }
    }
}

/// What a service manager is told: starting again may help where the address is not there yet, where the one before
/// has not ended yet, or when a disk works again.
fn exit_of(failure: &anyhow::Error) -> Exit {
    match failure.downcast_ref::<StoreError>() {
        Some(StoreError::Listen { .. } | StoreError::Disk { .. } | StoreError::Serve(_)) => Exit::Unavailable,
        Some(StoreError::Open(OpenError::InUse { .. })) => Exit::Unavailable,
        _ => Exit::Config,
    }
}

/// The controller's tasks, until `until` completes.
async fn control(config: &ControllerConfig, store: EtcdStore, until: impl Future<Output = ()>) {
    let keys = Keyspace::under(&config.key_prefix.to_string());
    let settings = ControllerSettings { lost_after: config.lost_after, ..ControllerSettings::default() };
    let rng = StdRng::from_rng(&mut rand::rng());
    tokio::select! {
        // Whatever the controller was doing, another one can finish: every write names its conditions.
        () = weft_controller::run(store, keys, settings, rng) => {}
        () = until => info!("shutting down"),
    }
}

/// Serves a store and is its first client, by the same code as every other one.
async fn serve_and_control(config: &ControllerConfig, serving: &ServingConfig) -> anyhow::Result<()> {
    let store = EmbeddedStore::open(store_options(config, serving)?).await?;
    let address = store.address().context("asking where the store listens")?;
    info!(%address, "the store is open");
    let client = store.connector().client().await.context("connecting to the store of this process")?;
    let own = EtcdStore::over("this controller", client);
    let controlling = async {
        let serving = format!("serving the store at {address}");
        tell_manager(&[NotifyState::Ready, NotifyState::Status(&serving)]);
        Box::pin(control(config, own, std::future::pending())).await;
    };
    tokio::select! {
        // What stands in the way of serving shows before anybody is told that it is ready.
        biased;
        // Ends when it is told to; the controller then has nobody to talk to, and is dropped.
        served = store.serve(termination()?) => served?,
        () = controlling => {}
    }
    info!("shutting down");
    Ok(())
}

fn store_options(config: &ControllerConfig, serving: &ServingConfig) -> anyhow::Result<StoreOptions> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let mut options = StoreOptions::new(&serving.data_dir, serving.listen);
    if let Some(tls) = &serving.tls {
        options.tls = Some(TlsFiles {
            certificate: read(&tls.identity.cert)?,
            key: read(&tls.identity.key)?,
            client_authority: tls.client_ca.as_deref().map(read).transpose()?,
        });
    }
    let scheme = if serving.tls.is_some() { "https" } else { "http" };
    options.client_urls = vec![format!("{scheme}://{}", serving.listen)];
    options.administrators = vec![serving.client_admin.clone()];
    options.root = config.key_prefix.to_string();
    options.name = config.name.to_string();
    Ok(options)
}

/// Which store it is, for the log.
fn describe_store(store: &StoreConfig) -> String {
    match store {
        StoreConfig::Etcd(etcd) => describe_etcd(etcd),
        StoreConfig::Own(serving) => {
            let tls = match &serving.tls {
                None => "in the clear",
                Some(ServingTls { client_ca: None, .. }) => "with TLS",
                Some(ServingTls { client_ca: Some(_), .. }) => "with TLS and clients' certificates",
            };
            format!("its own at {}, {tls}, in {}", serving.listen, serving.data_dir.display())
        }
    }
}

fn log_settings(config: &ControllerConfig) {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        kernel = observe_kernel_release(),
        name = %config.name,
        store = describe_store(&config.store),
        key_prefix = %config.key_prefix,
        lost_after_s = config.lost_after.as_secs(),
        log = %config.log.filter,
        "controller starts"
    );
}
