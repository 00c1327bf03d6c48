//! What the agent and the controller have in common: the host's name, the log, how settings are shown, and what the
//! service manager is told.

use std::{
    fs,
    future::Future,
    io::{self, IsTerminal},
    path::Path,
};

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;
use tracing_subscriber::fmt;
use weft_overlay::store::etcd::{EtcdOptions, Pem};

use crate::config::{EtcdConfig, LogConfig, LogFormat};

/// The host's name as this process's UTS namespace has it, if it can be read.
pub(super) fn observe_host_name() -> Option<String> {
    read_trimmed("/proc/sys/kernel/hostname")
}

/// The running kernel's release, if it can be read.
pub(super) fn observe_kernel_release() -> Option<String> {
    read_trimmed("/proc/sys/kernel/osrelease")
}

/// Sends log events to standard error from here on; called once.
pub(super) fn start_log(log: &LogConfig) {
    let builder = fmt().with_env_filter(log.filter.filter()).with_writer(io::stderr);
    match log.format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Where the store is, for the log: URLs cannot carry passwords, and keys are named by their files only.
pub(super) fn describe_etcd(etcd: &EtcdConfig) -> String {
    let urls: Vec<String> = etcd.endpoints.iter().map(ToString::to_string).collect();
    let tls = etcd.tls.as_ref().map_or_else(String::new, |tls| {
        let identity = tls.identity.as_ref().map_or_else(String::new, |identity| {
            format!(", certificate {} with key {}", identity.cert.display(), identity.key.display())
        });
        format!(" (authority {}{identity})", tls.ca.display())
    });
    urls.join(",") + &tls
}

/// The settings as the store's client takes them.
///
/// # Errors
/// When a certificate or key cannot be read, or they do not fit together.
pub(super) fn etcd_options(etcd: &EtcdConfig) -> anyhow::Result<EtcdOptions> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let mut pem = Pem::default();
    if let Some(tls) = &etcd.tls {
        pem.ca = Some(read(&tls.ca)?);
        if let Some(identity) = &tls.identity {
            pem.cert = Some(read(&identity.cert)?);
            pem.key = Some(read(&identity.key)?);
        }
    }
    let endpoints: Vec<String> = etcd.endpoints.iter().map(ToString::to_string).collect();
    Ok(EtcdOptions::parse(&endpoints, pem)?)
}

/// Runs a daemon on a runtime of its own.
///
/// # Errors
/// When no runtime can be made, and those of the daemon.
pub(super) fn run_daemon<T>(daemon: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let result = runtime.block_on(daemon);
    // Threads that wait for the kernel need not be waited for: they leave it as it is.
    runtime.shutdown_background();
    result
}

/// Tells the service manager how a daemon is, where there is one that wants to know: it sets NOTIFY_SOCKET, sd_notify(3).
pub(super) fn tell_manager(news: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(news) {
        warn!(%error, "the service manager could not be told: {news:?}");
    }
}

/// Completes when the process is told to end, and passes that on to the service manager.
///
/// # Errors
/// When signals cannot be listened for.
pub(super) fn termination() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    Ok(async move {
        tokio::select! {
            // Both cancel-safe: a signal that came stays.
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tell_manager(&[NotifyState::Stopping]);
    })
}

fn read_trimmed(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EtcdIdentity, EtcdTls};

    #[test]
    fn the_store_is_described_with_its_tls_files() {
        let mut etcd = EtcdConfig {
            endpoints: vec!["https://a:2379".parse().unwrap(), "https://b:2379".parse().unwrap()],
            tls: None,
            key_prefix: "/weft/v1/".parse().unwrap(),
        };
        assert_eq!(describe_etcd(&etcd), "https://a:2379,https://b:2379");

        etcd.tls = Some(EtcdTls { ca: "ca.pem".into(), identity: None });
        assert_eq!(describe_etcd(&etcd), "https://a:2379,https://b:2379 (authority ca.pem)");

        let identity = Some(EtcdIdentity { cert: "h1.pem".into(), key: "h1.key".into() });
        etcd.tls = Some(EtcdTls { ca: "ca.pem".into(), identity });
        assert_eq!(
            describe_etcd(&etcd),
            "https://a:2379,https://b:2379 (authority ca.pem, certificate h1.pem with key h1.key)"
        );
    }
}
