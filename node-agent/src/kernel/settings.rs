//! Settings below /proc/sys/net of a namespace: forwarding, bridge filters, and those of single devices.
//!
//! The kernel shows the settings of the namespace of the thread that opens the file, so everything here runs on a thread
//! inside. A setting is written only when it differs. What the kernel was built without has no file and is skipped.

use std::{fs, io, path::PathBuf};

use super::mark::Role;
use crate::netns::Namespace;

/// Below which directory, and whether its absence is no error.
const ROOT: &str = "/proc/sys/net";

/// A setting and the value that it should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    path: String,
    value: i32,
}

impl Setting {
    /// `path` is below /proc/sys/net.
    pub(crate) fn new(path: impl Into<String>, value: i32) -> Self {
        Self { path: path.into(), value }
    }

    /// Of one device and family (`ipv4` or `ipv6`).
    pub(crate) fn of_device(family: &str, device: &str, name: &str, value: i32) -> Self {
        Self::new(format!("{family}/conf/{device}/{name}"), value)
    }
}

/// Gives settings their values.
///
/// # Errors
/// When the namespace cannot be entered or a value is refused; settings that do not exist are skipped.
pub(crate) fn ensure(namespace: &Namespace, settings: &[Setting]) -> io::Result<()> {
    namespace.run(|| write(settings)).map_err(io::Error::other)?
}

/// The same in the namespace of the calling thread.
///
/// # Errors
/// When a value is refused.
pub(crate) fn write(settings: &[Setting]) -> io::Result<()> {
    settings.iter().try_for_each(|setting| match read(&setting.path)? {
        Some(value) if value != setting.value => fs::write(file(&setting.path), setting.value.to_string()),
        _ => Ok(()),
    })
}

/// The settings that differ, in words. Empty when all hold.
///
/// # Errors
/// When the namespace cannot be entered or a file cannot be read.
pub(crate) fn deviations(namespace: &Namespace, settings: &[Setting]) -> io::Result<Vec<String>> {
    let compare = || {
        let mut found = Vec::new();
        for setting in settings {
            if let Some(value) = read(&setting.path)?.filter(|value| *value != setting.value) {
                found.push(format!("{} is {value}", setting.path.replace('/', ".")));
            }
        }
        Ok(found)
    };
    namespace.run(compare).map_err(io::Error::other)?
}

/// Turns on IPv6 forwarding without taking away the host's own default route.
///
/// A host that forwards ignores router advertisements unless `accept_ra` is 2, and drops the default route that it has
/// from one. So interfaces that accept them as a host get 2 first.
///
/// # Errors
/// When the namespace cannot be entered or a value is refused.
pub(crate) fn ensure_host_forwarding(namespace: &Namespace) -> io::Result<()> {
    let write = || {
        if read("ipv6/conf/all/forwarding")? == Some(0) {
            for interface in interfaces("ipv6/conf")? {
                let accept = format!("ipv6/conf/{interface}/accept_ra");
                if read(&accept)? == Some(1) && !is_left_alone(&interface) {
                    fs::write(file(&accept), "2")?;
                }
            }
            fs::write(file("ipv6/conf/all/forwarding"), "1")?;
        }
        if read("ipv4/ip_forward")? == Some(0) {
            fs::write(file("ipv4/ip_forward"), "1")?;
        }
        Ok(())
    };
    namespace.run(write).map_err(io::Error::other)?
}

/// Legs, and `all` and `default`: interfaces to come must not begin to listen to routers because of us.
fn is_left_alone(interface: &str) -> bool {
    matches!(interface, "all" | "default") || matches!(Role::of(interface), Some(Role::Leg(_)))
}

/// The settings that [`ensure_host_forwarding`] makes hold.
pub(crate) fn host_forwarding() -> Vec<Setting> {
    vec![Setting::new("ipv4/ip_forward", 1), Setting::new("ipv6/conf/all/forwarding", 1)]
}

/// The data plane's namespace: it bridges and is otherwise silent.
///
/// br_netfilter, once loaded, has its switches on in every new namespace. IPv6 must be enabled, or the bridges refuse
/// IPv6 neighbours; that nobody speaks it is seen to by the rest.
pub(crate) fn data_plane() -> Vec<Setting> {
    let mut settings = vec![
        Setting::new("ipv4/ip_forward", 0),
        Setting::new("ipv6/conf/all/forwarding", 0),
        Setting::new("bridge/bridge-nf-call-iptables", 0),
        Setting::new("bridge/bridge-nf-call-ip6tables", 0),
        Setting::new("bridge/bridge-nf-call-arptables", 0),
    ];
    for scope in ["all", "default"] {
        settings.extend([
            Setting::of_device("ipv6", scope, "disable_ipv6", 0),
            Setting::of_device("ipv6", scope, "accept_ra", 0),
            Setting::of_device("ipv4", scope, "arp_announce", 2),
            Setting::of_device("ipv4", scope, "arp_ignore", 8),
        ]);
    }
    settings.push(Setting::of_device("ipv6", "default", "autoconf", 0));
    // IN6_ADDR_GEN_MODE_NONE.
    settings.push(Setting::of_device("ipv6", "default", "addr_gen_mode", 1));
    settings
}

/// The value of a setting; absent where there is no such file.
pub(crate) fn read(path: &str) -> io::Result<Option<i32>> {
    match fs::read_to_string(file(path)) {
        Ok(text) => text.trim().parse().map(Some).map_err(io::Error::other),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause),
    }
}

fn interfaces(path: &str) -> io::Result<Vec<String>> {
    match fs::read_dir(file(path)) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(cause) => Err(cause),
    }
}

fn file(path: &str) -> PathBuf {
    PathBuf::from(ROOT).join(path)
}
