//! What the agent and the controller have in common at their start: the host's name, the log and how settings are shown.

use std::{
    fs,
    io::{self, IsTerminal},
};

use tracing_subscriber::fmt;

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
