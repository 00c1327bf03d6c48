//! Values of the command line and the environment that no other crate has a type for, and how they are written.
//!
//! Each is made only by parsing. Messages name the text, what is wrong with it and what to write instead. Must not read
//! the file system: whether something exists is found out by whoever uses it.

#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use hyper::Uri;
use ipnetwork::IpNetwork;
use thiserror::Error;
use tracing_subscriber::EnvFilter;
use weft_overlay::{
    id::{IfName, ParseIdError},
    model::{Protocol, PublishedPort},
};

/// Why a text is not the value that it should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ValueError {
    #[error("container {text:?} is not valid: {reason}; give a named network namespace, an absolute path or pid:N")]
    Container { text: String, reason: &'static str },
    #[error("subnet {text:?} has no prefix length; write it as in 10.40.0.0/24")]
    NoPrefixLength { text: String },
    #[error("subnet {text:?} is malformed; write an address and a prefix length, as in 10.40.0.0/24 or fd00:40::/64")]
    Subnet { text: String },
    #[error("subnet {text:?} has host bits set; the subnet that contains it is {network}")]
    HostBits { text: String, network: IpNetwork },
    #[error("label {text:?} has no key and '='; write it as in tier=db")]
    Label { text: String },
    #[error("label {key:?} is given twice; give each key once")]
    LabelTwice { key: String },
    #[error("published port {text:?} is malformed: {reason}; write [IP:]HOSTPORT:PORT[/tcp|udp], as in 8080:80")]
    PublishedPort { text: String, reason: &'static str },
    #[error("duration {text:?} is malformed; write a whole number and a unit (s, m, h or d), as in 90s, 10m or 1h")]
    Duration { text: String },
    #[error("URL {text:?} is malformed: {reason}; write it as in http://10.0.0.1:2379")]
    EtcdUrl { text: String, reason: &'static str },
    #[error("key prefix {text:?} is malformed: {reason}; write it as in /weft/v1/")]
    KeyPrefix { text: String, reason: &'static str },
    #[error("{text:?} is neither an address, a subnet (CIDR) nor an interface's name")]
    Underlay { text: String, source: ParseIdError },
    #[error("namespace {text:?} is not valid: {reason}; give a plain name, as `ip netns add` takes it")]
    Netns { text: String, reason: &'static str },
    #[error("group {text:?} is not valid: {reason}; give a name as in /etc/group, or a number")]
    SocketGroup { text: String, reason: &'static str },
    #[error("group {name:?} is not in /etc/group; make it with `groupadd --system {name}`, or name another")]
    UnknownGroup { name: String },
    #[error("log filter {text:?} is malformed: {reason}; write a level such as info, or info,weft_overlay=debug")]
    LogFilter { text: String, reason: String },
}

/// How a container is referred to: a named network namespace, an absolute path, or `pid:N`. Kept as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerRef(String);

impl FromStr for ContainerRef {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = |reason| ValueError::Container { text: shorten(text), reason };
        if let Some(pid) = text.strip_prefix("pid:") {
            let digits = !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit());
            // pid_t is a signed 32-bit number, and 0 is no process.
            if !digits || !pid.parse::<i32>().is_ok_and(|number| number > 0) {
                return Err(wrong("what follows 'pid:' is not the id of a process"));
            }
        } else if text.starts_with('/') {
            // PATH_MAX of the kernel, with the terminating zero.
            if text.len() > 4095 {
                return Err(wrong("the path is longer than 4095 bytes"));
            }
        } else {
            check_file_name(text).map_err(wrong)?;
        }
        Ok(Self(text.to_owned()))
    }
}

impl From<ContainerRef> for String {
    fn from(container: ContainerRef) -> Self {
        container.0
    }
}

/// A group of this host, by name or number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SocketGroup {
    Name(String),
    Id(u32),
}

impl SocketGroup {
    /// Its number, by what /etc/group holds. Other sources of names are not asked: a static binary has none.
    pub(crate) fn id(&self, etc_group: &str) -> Result<u32, ValueError> {
        let name = match self {
            Self::Id(id) => return Ok(*id),
            Self::Name(name) => name,
        };
        let id_of = |line: &str| {
            let mut fields = line.split(':');
            let found = fields.next() == Some(name);
            // The password is between them.
            found.then(|| fields.nth(1)?.parse().ok()).flatten()
        };
        etc_group.lines().find_map(id_of).ok_or_else(|| ValueError::UnknownGroup { name: shorten(name) })
    }
}

impl FromStr for SocketGroup {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = |reason| ValueError::SocketGroup { text: shorten(text), reason };
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            // The largest number means none to the kernel.
            let id = text.parse().ok().filter(|id| *id < u32::MAX);
            return id.map(Self::Id).ok_or_else(|| wrong("the number is too large"));
        }
        if text.contains([':', ',']) || text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(wrong("no group can have this name"));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl fmt::Display for SocketGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Id(id) => write!(f, "{id}"),
        }
    }
}

/// A label as it is typed: `K=V`; the value may be empty and may contain further `=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl FromStr for Label {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self { key: key.to_owned(), value: value.to_owned() }),
            _ => Err(ValueError::Label { text: shorten(text) }),
        }
    }
}

/// A subnet with its prefix length, without host bits.
pub(crate) fn parse_subnet(text: &str) -> Result<IpNetwork, ValueError> {
    if text.parse::<IpAddr>().is_ok() {
        return Err(ValueError::NoPrefixLength { text: text.to_owned() });
    }
    let subnet: IpNetwork = text.parse().map_err(|_| ValueError::Subnet { text: shorten(text) })?;
    match IpNetwork::new(subnet.network(), subnet.prefix()) {
        Ok(network) if network != subnet => Err(ValueError::HostBits { text: text.to_owned(), network }),
        _ => Ok(subnet),
    }
}

/// `[IP:]HOSTPORT:PORT[/tcp|udp]`, TCP unless said otherwise.
pub(crate) fn parse_published_port(text: &str) -> Result<PublishedPort, ValueError> {
    let wrong = |reason| ValueError::PublishedPort { text: shorten(text), reason };
    let (ports, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some(_) => return Err(wrong("the protocol is neither tcp nor udp")),
    };
    let (host, port) = ports.rsplit_once(':').ok_or_else(|| wrong("there is no ':' between two ports"))?;
    let (host_ip, host_port) = match host.rsplit_once(':') {
        None => (None, host),
        Some((address, host_port)) => {
            let address = parse_bracketed(address).ok_or_else(|| wrong("the host's address is not an IP address"))?;
            (Some(address), host_port)
        }
    };
    let parse_port = |port: &str| {
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        port.parse::<u16>().ok().filter(|number| digits && *number > 0).ok_or_else(|| wrong("a port is not 1 to 65535"))
    };
    Ok(PublishedPort { protocol, host_ip, host_port: parse_port(host_port)?, port: parse_port(port)? })
}

/// An IPv4 address, or an IPv6 address in brackets: without them its last part could be a port.
fn parse_bracketed(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => text.parse().ok().map(IpAddr::V4),
    }
}

/// A duration of whole seconds: a number and one of the units s, m, h and d.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    let wrong = || ValueError::Duration { text: shorten(text) };
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds_per_unit: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number = text.strip_suffix(unit).ok_or_else(wrong)?;
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds_per_unit).map(Duration::from_secs).ok_or_else(wrong)
}

/// The URL of one etcd member: scheme, host and port, nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EtcdUrl {
    text: String,
    tls: bool,
}

impl EtcdUrl {
    /// Whether the connection is encrypted.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }
}

impl FromStr for EtcdUrl {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = |reason| ValueError::EtcdUrl { text: shorten(text), reason };
        let uri: Uri = text.parse().map_err(|_| wrong("it is not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) => return Err(wrong("its scheme is neither http nor https")),
            None => return Err(wrong("it does not begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("user and password are not supported"));
        }
        if authority.host().is_empty() {
            return Err(wrong("it names no host"));
        }
        if authority.port_u16().is_none_or(|port| port == 0) {
            return Err(wrong("it has no port"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("something follows the port"));
        }
        Ok(Self { text: text.trim_end_matches('/').to_owned(), tls })
    }
}

impl fmt::Display for EtcdUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What every key in etcd begins with: begins and ends with a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyPrefix(String);

impl FromStr for KeyPrefix {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = |reason| ValueError::KeyPrefix { text: shorten(text), reason };
        if !text.starts_with('/') || !text.ends_with('/') {
            return Err(wrong("it does not begin and end with '/'"));
        }
        if text.len() < 3 || text.contains("//") {
            return Err(wrong("something between two '/' is empty"));
        }
        if text.len() > 200 {
            return Err(wrong("it is longer than 200 bytes"));
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(wrong("it contains white space or something that is not ASCII"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How the operator chose the underlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Underlay {
    /// The only address of this interface.
    Interface(IfName),
    /// The only address in this subnet.
    Subnet(IpNetwork),
    /// This address.
    Address(IpAddr),
}

impl FromStr for Underlay {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if text.contains('/') {
            return parse_subnet(text).map(Self::Subnet);
        }
        let wrong = |source| ValueError::Underlay { text: shorten(text), source };
        text.parse().map(Self::Interface).map_err(wrong)
    }
}

impl fmt::Display for Underlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(name) => name.fmt(f),
            Self::Subnet(subnet) => subnet.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// The name of a network namespace: a file name in /run/netns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetnsName(String);

impl FromStr for NetnsName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        check_file_name(text).map_err(|reason| ValueError::Netns { text: shorten(text), reason })?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for NetnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which events are logged, as tracing-subscriber's `EnvFilter` reads it. Kept as text because the filter cannot be
/// copied or compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogFilter(String);

impl LogFilter {
    /// The filter.
    pub(crate) fn filter(&self) -> EnvFilter {
        EnvFilter::try_new(&self.0).expect("the text was parsed before")
    }
}

impl FromStr for LogFilter {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = |reason: String| ValueError::LogFilter { text: shorten(text), reason };
        if text.trim().is_empty() {
            return Err(wrong("it is empty".to_owned()));
        }
        EnvFilter::try_new(text).map_err(|error| wrong(error.to_string()))?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_file_name(text: &str) -> Result<(), &'static str> {
    match text {
        "" => Err("it is empty"),
        "." | ".." => Err("it is a directory"),
        // NAME_MAX of the kernel.
        _ if text.len() > 255 => Err("it is longer than 255 bytes"),
        _ if text.contains('/') => Err("it contains '/'"),
        _ if text.chars().any(char::is_control) => Err("it contains a control character"),
        _ => Ok(()),
    }
}

fn shorten(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
