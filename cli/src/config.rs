//! What a daemon runs with: arguments made into values, once.
//!
//! The single place that validates the settings of `agent`, `controller` and `doctor`: all problems are reported
//! together, each with its option and environment variable. Pure: what exists on this host is found out by the daemon.

#[cfg(test)]
mod tests;

use std::{error::Error, fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use thiserror::Error;
use weft_overlay::{cause::chain, id::Name};

use crate::{
    args::{AgentArgs, ControllerArgs, DoctorArgs, EtcdArgs, HostArgs, LogArgs, ServingArgs},
    values::{EtcdUrl, KeyPrefix, LogFilter, NetnsName, SocketGroup, Underlay, parse_duration},
};

/// What `weft agent` runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentConfig {
    /// The store.
    pub(crate) etcd: EtcdConfig,
    /// What it uses of the host.
    pub(crate) host: HostConfig,
    /// Where it listens.
    pub(crate) socket: PathBuf,
    /// Whose members may use the socket beside root.
    pub(crate) socket_group: Option<SocketGroup>,
    /// For how long its answers about names may be kept: 0 to 86,400 seconds.
    pub(crate) dns_ttl: Duration,
    /// Which Docker engine is served.
    pub(crate) docker: Docker,
    /// Where that engine looks for plugins.
    pub(crate) docker_plugins: PathBuf,
    /// What is logged.
    pub(crate) log: LogConfig,
}

/// What `weft controller` runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ControllerConfig {
    /// The store.
    pub(crate) store: StoreConfig,
    /// What every key in it begins with.
    pub(crate) key_prefix: KeyPrefix,
    /// For how long a node shows no sign of life before it is given up: at least a second.
    pub(crate) lost_after: Duration,
    /// The name that it stands for election with.
    pub(crate) name: Name,
    /// What is logged.
    pub(crate) log: LogConfig,
}

/// Which store a controller works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreConfig {
    /// An etcd.
    Etcd(EtcdConfig),
    /// One that it serves itself.
    Own(ServingConfig),
}

/// The store that a controller serves itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServingConfig {
    /// Where clients reach it.
    pub(crate) listen: SocketAddr,
    /// Where its file is.
    pub(crate) data_dir: PathBuf,
    /// TLS, if it has a certificate.
    pub(crate) tls: Option<ServingTls>,
    /// The common name of certificates that may write everything.
    pub(crate) client_admin: String,
}

/// Files of a store with TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServingTls {
    /// Its certificate and key (PEM).
    pub(crate) identity: EtcdIdentity,
    /// The authority of clients' certificates (PEM); with it, every client must have one.
    pub(crate) client_ca: Option<PathBuf>,
}

/// What `weft doctor` checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DoctorConfig {
    /// The store; absent: not checked.
    pub(crate) etcd: Option<EtcdConfig>,
    /// What the agent would use of the host.
    pub(crate) host: HostConfig,
    /// Where the agent would listen.
    pub(crate) socket: PathBuf,
}

/// Where the store is and how to get in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EtcdConfig {
    /// Its members, at least one; either all with TLS or none.
    pub(crate) endpoints: Vec<EtcdUrl>,
    /// TLS; present exactly if the URLs are https.
    pub(crate) tls: Option<EtcdTls>,
    /// What every key begins with.
    pub(crate) key_prefix: KeyPrefix,
}

/// How etcd and this program know each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EtcdTls {
    /// The authority that etcd's certificate is checked against (PEM).
    pub(crate) ca: PathBuf,
    /// This program's certificate and private key (PEM), if etcd asks for them.
    pub(crate) identity: Option<EtcdIdentity>,
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EtcdIdentity {
    /// The certificate's file.
    pub(crate) cert: PathBuf,
    /// The private key's file.
    pub(crate) key: PathBuf,
}

/// What the agent uses of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostConfig {
    /// The node's name.
    pub(crate) node: Name,
    /// How the underlay address is chosen; absent: the only candidate.
    pub(crate) underlay: Option<Underlay>,
    /// UDP port of VXLAN, not 0.
    pub(crate) vxlan_port: u16,
    /// What must survive a restart.
    pub(crate) state_dir: PathBuf,
    /// The data plane's network namespace.
    pub(crate) netns: NetnsName,
    /// The resolvers that other names are asked of.
    pub(crate) resolv_conf: PathBuf,
}

/// Which Docker engine is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Docker {
    /// That of the host, once there is one.
    Auto,
    /// None.
    Off,
    /// The one with this socket.
    At(PathBuf),
}

/// What is logged and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogConfig {
    /// Which events.
    pub(crate) filter: LogFilter,
    /// In which form.
    pub(crate) format: LogFormat,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One object per line.
    Json,
}

/// Arguments of a command, with what else its configuration is made of.
#[derive(Debug, Clone)]
pub(crate) struct Settings<A> {
    /// The arguments.
    pub(crate) args: A,
    /// The global option --socket.
    pub(crate) socket: PathBuf,
    /// The host's name, if it could be read.
    pub(crate) host_name: Option<String>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) struct ConfigError {
    problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bad configuration; nothing was started")?;
        for problem in &self.problems {
            write!(f, "\n  {} ({}): {}", problem.option, variable(problem.option), problem.message)?;
        }
        Ok(())
    }
}

/// One thing that is wrong, and the option that it is wrong in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    option: &'static str,
    message: String,
}

impl TryFrom<Settings<AgentArgs>> for AgentConfig {
    type Error = ConfigError;

    fn try_from(settings: Settings<AgentArgs>) -> Result<Self, ConfigError> {
        let mut check = Check::default();
        let etcd = check.etcd(&settings.args.etcd, MISSING_ETCD);
        let host = check.host(&settings.args.host, settings.host_name.as_deref());
        let socket_group = match settings.args.socket_group.as_deref() {
            Some(text) => check.parse("--socket-group", text).map(Some),
            None => Some(None),
        };
        let dns_ttl = check.number("--dns-ttl", &settings.args.dns_ttl, 0..=86_400);
        let docker = check.docker(&settings.args.docker);
        let docker_plugins = check.path("--docker-plugins", &settings.args.docker_plugins);
        let log = check.log(&settings.args.log);
        check.finish(|| {
            Some(Self {
                etcd: etcd?,
                host: host?,
                socket: settings.socket,
                socket_group: socket_group?,
                dns_ttl: Duration::from_secs(dns_ttl?.into()),
                docker: docker?,
                docker_plugins: docker_plugins?,
                log: log?,
            })
        })
    }
}

impl TryFrom<Settings<ControllerArgs>> for ControllerConfig {
    type Error = ConfigError;

    fn try_from(settings: Settings<ControllerArgs>) -> Result<Self, ConfigError> {
        let mut check = Check::default();
        let key_prefix = settings.args.etcd.key_prefix.parse().ok();
        let store = check.store(&settings.args.etcd, &settings.args.serving);
        let lost_after = check.lost_after(&settings.args.lost_after);
        let name = check.name("--name", settings.args.name.as_deref(), settings.host_name.as_deref());
        let log = check.log(&settings.args.log);
        check.finish(|| {
            Some(Self { store: store?, key_prefix: key_prefix?, lost_after: lost_after?, name: name?, log: log? })
        })
    }
}

impl TryFrom<Settings<DoctorArgs>> for DoctorConfig {
    type Error = ConfigError;

    fn try_from(settings: Settings<DoctorArgs>) -> Result<Self, ConfigError> {
        let mut check = Check::default();
        let args = &settings.args.etcd;
        let wanted = !args.etcd.is_empty();
        let etcd = if wanted { check.etcd(args, MISSING_ETCD) } else { None };
        let host = check.host(&settings.args.host, settings.host_name.as_deref());
        check.finish(|| Some(Self { etcd, host: host?, socket: settings.socket }))
    }
}

const MISSING_STORE: &str = "is missing; give the URLs of etcd, such as http://10.0.0.1:2379, or serve a store with \
    --listen ADDRESS:PORT";

const MISSING_ETCD: &str = "is missing; give the URLs of etcd, such as http://10.0.0.1:2379";

/// The environment variable of an option: clap is given the same names, which a test compares.
fn variable(option: &str) -> String {
    format!("WEFT_{}", option.trim_start_matches('-').replace('-', "_").to_uppercase())
}

/// Collects problems; a value is absent exactly if a problem was noted for it.
#[derive(Debug, Default)]
struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn note(&mut self, option: &'static str, message: impl fmt::Display) {
        self.problems.push(Problem { option, message: message.to_string() });
    }

    fn finish<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T, ConfigError> {
        if !self.problems.is_empty() {
            return Err(ConfigError { problems: self.problems });
        }
        Ok(build().expect("a value is absent only if a problem was noted"))
    }

    fn parse<T: FromStr<Err: Error>>(&mut self, option: &'static str, text: &str) -> Option<T> {
        text.parse().map_err(|error: T::Err| self.note(option, chain(&error))).ok()
    }

    fn number(&mut self, option: &'static str, text: &str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
        let number = text.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            self.note(option, format_args!("{text:?} is not a whole number from {} to {}", range.start(), range.end()));
        }
        number
    }

    fn path(&mut self, option: &'static str, text: &str) -> Option<PathBuf> {
        if text.is_empty() {
            self.note(option, "is empty; give a path, or leave the setting out");
            return None;
        }
        Some(PathBuf::from(text))
    }

    fn name(&mut self, option: &'static str, given: Option<&str>, host_name: Option<&str>) -> Option<Name> {
        match (given, host_name) {
            (Some(name), _) => self.parse(option, name),
            (None, Some(host_name)) => host_name
                .parse()
                .map_err(|error| self.note(option, format_args!("the host's name does not do as a name: {error}")))
                .ok(),
            (None, None) => {
                self.note(option, "is missing, and the host's name could not be read; give a name");
                None
            }
        }
    }

    fn etcd(&mut self, args: &EtcdArgs, missing: &str) -> Option<EtcdConfig> {
        if args.etcd.is_empty() {
            self.note("--etcd", missing);
        }
        let endpoints: Vec<EtcdUrl> = args.etcd.iter().filter_map(|url| self.parse("--etcd", url)).collect();
        let key_prefix = self.parse("--key-prefix", &args.key_prefix);
        let tls = self.etcd_tls(args, &endpoints);
        let complete = !endpoints.is_empty() && endpoints.len() == args.etcd.len();
        complete.then_some(EtcdConfig { endpoints, tls: tls?, key_prefix: key_prefix? })
    }

    /// The outer option is absent if something is wrong, the inner one if there is no TLS.
    fn etcd_tls(&mut self, args: &EtcdArgs, endpoints: &[EtcdUrl]) -> Option<Option<EtcdTls>> {
        let before = self.problems.len();
        let mut file = |option, text: &Option<String>| text.as_deref().and_then(|text| self.path(option, text));
        let ca = file("--etcd-ca", &args.etcd_ca);
        let cert = file("--etcd-cert", &args.etcd_cert);
        let key = file("--etcd-key", &args.etcd_key);
        if args.etcd_cert.is_some() && args.etcd_key.is_none() {
            self.note("--etcd-key", "is missing; --etcd-cert is of no use without its private key");
        }
        if args.etcd_key.is_some() && args.etcd_cert.is_none() {
            self.note("--etcd-cert", "is missing; --etcd-key is of no use without its certificate");
        }
        let encrypted = endpoints.iter().filter(|url| url.is_tls()).count();
        if encrypted == 0 && !endpoints.is_empty() {
            for (option, value) in
                [("--etcd-ca", &args.etcd_ca), ("--etcd-cert", &args.etcd_cert), ("--etcd-key", &args.etcd_key)]
            {
                if value.is_some() {
                    self.note(option, "would not be used, because the URLs of --etcd are http; write https");
                }
            }
        } else if encrypted < endpoints.len() {
            self.note("--etcd", "mixes http and https; write https for all members or for none");
        } else if encrypted > 0 && args.etcd_ca.is_none() {
            self.note("--etcd-ca", "is missing; https needs the authority that etcd's certificate is checked against");
        }
        let identity = cert.zip(key).map(|(cert, key)| EtcdIdentity { cert, key });
        (self.problems.len() == before).then(|| ca.map(|ca| EtcdTls { ca, identity }))
    }

    fn store(&mut self, etcd: &EtcdArgs, serving: &ServingArgs) -> Option<StoreConfig> {
        let Some(listen) = &serving.listen else {
            let of_serving = [("--cert", &serving.cert), ("--key", &serving.key), ("--client-ca", &serving.client_ca)];
            for (option, value) in of_serving {
                if value.is_some() {
                    self.note(option, "is for a store that this controller serves; give --listen, or leave it out");
                }
            }
            return self.etcd(etcd, MISSING_STORE).map(StoreConfig::Etcd);
        };
        if !etcd.etcd.is_empty() {
            self.note("--listen", "serves a store, and --etcd names another; give one of the two");
        }
        let prefix: Option<KeyPrefix> = self.parse("--key-prefix", &etcd.key_prefix);
        let address = listen.parse().ok();
        if address.is_none() {
            self.note("--listen", format_args!("{listen:?} is no address and port; write them as in 10.0.0.1:2379"));
        }
        let data_dir = self.path("--data-dir", &serving.data_dir);
        let tls = self.serving_tls(serving);
        let client_admin = serving.client_admin.clone();
        prefix?;
        Some(StoreConfig::Own(ServingConfig { listen: address?, data_dir: data_dir?, tls: tls?, client_admin }))
    }

    /// The outer option is absent if something is wrong, the inner one if there is no TLS.
    fn serving_tls(&mut self, args: &ServingArgs) -> Option<Option<ServingTls>> {
        let before = self.problems.len();
        let mut file = |option, text: &Option<String>| text.as_deref().and_then(|text| self.path(option, text));
        let cert = file("--cert", &args.cert);
        let key = file("--key", &args.key);
        let client_ca = file("--client-ca", &args.client_ca);
        if args.cert.is_some() && args.key.is_none() {
            self.note("--key", "is missing; --cert is of no use without its private key");
        }
        if args.key.is_some() && args.cert.is_none() {
            self.note("--cert", "is missing; --key is of no use without its certificate");
        }
        if args.client_ca.is_some() && args.cert.is_none() && args.key.is_none() {
            self.note("--cert", "is missing; clients can show certificates only to a store that has one");
        }
        let identity = cert.zip(key).map(|(cert, key)| EtcdIdentity { cert, key });
        (self.problems.len() == before).then(|| identity.map(|identity| ServingTls { identity, client_ca }))
    }

    fn host(&mut self, args: &HostArgs, host_name: Option<&str>) -> Option<HostConfig> {
        let node = self.name("--node", args.node.as_deref(), host_name);
        let underlay = match args.underlay.as_deref() {
            Some(text) => self.parse("--underlay", text).map(Some),
            None => Some(None),
        };
        let vxlan_port = self.number("--vxlan-port", &args.vxlan_port, 1..=u32::from(u16::MAX));
        let state_dir = self.path("--state-dir", &args.state_dir);
        let netns = self.parse("--netns", &args.netns);
        let resolv_conf = self.path("--resolv-conf", &args.resolv_conf);
        Some(HostConfig {
            node: node?,
            underlay: underlay?,
            vxlan_port: vxlan_port?.try_into().ok()?,
            state_dir: state_dir?,
            netns: netns?,
            resolv_conf: resolv_conf?,
        })
    }

    fn docker(&mut self, text: &str) -> Option<Docker> {
        match text {
            "auto" => Some(Docker::Auto),
            "off" => Some(Docker::Off),
            socket if socket.starts_with('/') => Some(Docker::At(PathBuf::from(socket))),
            other => {
                self.note(
                    "--docker",
                    format_args!("{other:?} is neither auto nor off nor the absolute path of a socket"),
                );
                None
            }
        }
    }

    fn lost_after(&mut self, text: &str) -> Option<Duration> {
        let duration = parse_duration(text).map_err(|error| self.note("--lost-after", error)).ok()?;
        if duration.is_zero() {
            self.note("--lost-after", format_args!("{text:?} is too short; the least is 1s"));
            return None;
        }
        Some(duration)
    }

    fn log(&mut self, args: &LogArgs) -> Option<LogConfig> {
        let filter = self.parse("--log", &args.log);
        let format = match args.log_format.as_str() {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            other => {
                self.note("--log-format", format_args!("{other:?} is neither text nor json"));
                None
            }
        };
        Some(LogConfig { filter: filter?, format: format? })
    }
}
