//! Which network namespace a user means by CONTAINER: the name of one, a path, or `pid:N`.
//!
//! Must not change anything: finding out is all that happens here.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;
use weft_overlay::id::{Name, ParseIdError};

use crate::netns::{Namespace, NetnsError};

/// Where `ip netns` keeps named namespaces.
pub const NAMED: &str = "/run/netns";

/// What a user calls a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerRef {
    /// A namespace in [`NAMED`].
    Named(String),
    /// The path of a namespace.
    Path(PathBuf),
    /// A process in the namespace.
    Pid(u32),
}

/// A container that was found.
#[derive(Debug, Clone)]
pub struct Container {
    /// What the user calls it.
    pub reference: ContainerRef,
    /// Its namespace.
    pub namespace: Namespace,
    /// Path of the namespace.
    pub path: String,
    /// Device number of its inode.
    pub dev: u64,
    /// Its inode.
    pub inode: u64,
}

/// Why a container cannot be used.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// Not a name, path or process id.
    #[error(
        "container {text:?} is not valid: {reason}; give the name of a network namespace (ip netns), an absolute path \
         such as /proc/PID/ns/net, or pid:N"
    )]
    Malformed {
        /// The offending text, shortened.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Nothing there.
    #[error("container {text:?} does not exist: no network namespace at {path}; list them with `ip netns`")]
    NotFound {
        /// What the user called it.
        text: String,
        /// Where it was looked for.
        path: String,
    },
    /// Something there that is not a network namespace, or that cannot be entered.
    #[error("container {text:?}: {path} is not a network namespace that can be entered")]
    NotNamespace {
        /// What the user called it.
        text: String,
        /// Where it is.
        path: String,
        /// What the kernel said.
        #[source]
        cause: NetnsError,
    },
    /// The host itself, or the data plane.
    #[error("container {text:?} is {what}; name a container's network namespace")]
    Reserved {
        /// What the user called it.
        text: String,
        /// What it is.
        what: &'static str,
    },
}

impl ContainerRef {
    /// Reads what a user wrote.
    ///
    /// # Errors
    /// When it could be nothing, or could lead anywhere else than to a namespace.
    pub fn parse(text: &str) -> Result<Self, ContainerError> {
        let shown = || text.chars().take(80).collect();
        let malformed = |reason| ContainerError::Malformed { text: shown(), reason };
        if text.is_empty() {
            return Err(malformed("it is empty"));
        }
        if text.len() > 255 {
            return Err(malformed("it is longer than 255 bytes"));
        }
        if text.chars().any(char::is_control) {
            return Err(malformed("it contains a control character"));
        }
        if let Some(pid) = text.strip_prefix("pid:") {
            let pid = pid.parse().ok().filter(|pid| *pid > 0);
            return pid.map(Self::Pid).ok_or_else(|| malformed("what follows pid: is not a process id"));
        }
        let path = Path::new(text);
        if text.split('/').any(|part| part == "..") {
            return Err(malformed("it contains '..'"));
        }
        if path.is_absolute() {
            return Ok(Self::Path(path.to_owned()));
        }
        if text.contains('/') {
            return Err(malformed("it contains '/' but is not an absolute path"));
        }
        if text == "." {
            return Err(malformed("it is a directory"));
        }
        Ok(Self::Named(text.to_owned()))
    }

    /// Where its namespace is.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Named(name) => Path::new(NAMED).join(name),
            Self::Path(path) => path.clone(),
            Self::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        }
    }

    /// The name of the namespace, where it has one: it is what `/etc/netns/NAME` is found by.
    pub fn netns_name(&self) -> Option<&str> {
        match self {
            Self::Named(name) => Some(name),
            Self::Path(path) => {
                let name = path.strip_prefix(NAMED).or_else(|_| path.strip_prefix("/var/run/netns")).ok()?.to_str()?;
                (!name.is_empty() && !name.contains('/')).then_some(name)
            }
            Self::Pid(_) => None,
        }
    }

    /// The name that its endpoints get unless the user gives one.
    ///
    /// # Errors
    /// When it has none that could be one.
    pub fn default_name(&self) -> Result<Name, ParseIdError> {
        match self {
            Self::Named(name) => name.parse(),
            Self::Path(path) => match self.netns_name() {
                Some(name) => name.parse(),
                None => path.to_string_lossy().trim_matches('/').replace('/', "-").parse(),
            },
            Self::Pid(pid) => format!("pid-{pid}").parse(),
        }
    }

    /// What the user wrote, in one spelling.
    pub fn text(&self) -> String {
        match self {
            Self::Named(name) => name.clone(),
            Self::Path(path) => path.display().to_string(),
            Self::Pid(pid) => format!("pid:{pid}"),
        }
    }

    /// Finds the namespace. `host` and `data_plane` are refused: they are nobody's containers.
    ///
    /// # Errors
    /// When there is none, it cannot be entered, or it is one of those two.
    pub fn find(&self, host: &Namespace, data_plane: &Namespace) -> Result<Container, ContainerError> {
        let text = self.text();
        let path = self.path().display().to_string();
        let unusable = |cause| ContainerError::NotNamespace { text: text.clone(), path: path.clone(), cause };
        let namespace = Namespace::open(Path::new(&path)).map_err(|error| match error {
            NetnsError::Open { cause, .. } if cause.kind() == io::ErrorKind::NotFound => {
                ContainerError::NotFound { text: text.clone(), path: path.clone() }
            }
            other => unusable(other),
        })?;
        let identity = namespace.identity().map_err(unusable)?;
        for (reserved, what) in [(host, "the host's own namespace"), (data_plane, "Weft's data plane")] {
            if reserved.identity().is_ok_and(|known| known == identity) {
                return Err(ContainerError::Reserved { text, what });
            }
        }
        namespace.run(|| ()).map_err(unusable)?;
        let (dev, inode) = identity;
        Ok(Container { reference: self.clone(), namespace, path, dev, inode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        for bad in
            ["", ".", "..", "a/b", "../x", "/run/netns/../../etc", "a\0b", "a\nb", "pid:", "pid:0", "pid:-1", "pid:x"]
        {
            let error = ContainerRef::parse(bad).expect_err(bad);
            assert!(matches!(error, ContainerError::Malformed { .. }), "{bad:?}: {error}");
        }
        assert!(ContainerRef::parse(&"x".repeat(300)).is_err());
    }

    #[test]
    fn each_spelling_leads_to_its_path_and_name() {
        let table = [
            ("ct1", "/run/netns/ct1", "ct1", Some("ct1")),
            ("pid:7", "/proc/7/ns/net", "pid-7", None),
            ("/proc/7/ns/net", "/proc/7/ns/net", "proc-7-ns-net", None),
            ("/run/netns/web", "/run/netns/web", "web", Some("web")),
            ("/var/run/netns/web", "/var/run/netns/web", "web", Some("web")),
        ];
        for (text, path, name, netns) in table {
            let container = ContainerRef::parse(text).unwrap();
            assert_eq!(container.path(), Path::new(path));
            assert_eq!(container.default_name().unwrap().as_str(), name);
            assert_eq!(container.netns_name(), netns);
        }
    }

    #[test]
    fn the_host_itself_is_no_container() {
        let here = Namespace::current().unwrap();

        let error = ContainerRef::Pid(std::process::id()).find(&here, &here).unwrap_err();

        assert!(matches!(error, ContainerError::Reserved { .. }), "{error}");
    }

    #[test]
    fn a_missing_container_is_named_with_where_it_was_looked_for() {
        let here = Namespace::current().unwrap();

        let error = ContainerRef::Named("nobody".to_owned()).find(&here, &here).unwrap_err();

        assert!(error.to_string().contains("/run/netns/nobody"), "{error}");
    }
}
