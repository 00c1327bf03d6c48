//! The resolver's file of a named network namespace: `/etc/netns/NAME/resolv.conf`.
//!
//! `ip netns exec NAME` mounts that file over `/etc/resolv.conf` for the command that it starts, so names work there
//! without any configuration. A command that runs already keeps the file that it started with.
//!
//! Ours is what begins with [`MARK`]; a file without it belongs to somebody else and is neither changed nor removed.

use std::{
    fmt, fs, io,
    io::Write,
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use thiserror::Error;
use weft_overlay::id::NodeId;

/// How the first line of a file of ours begins.
pub const MARK: &str = "# weft";

/// glibc reads no more servers than this (MAXNS in resolv.h).
const MAX_SERVERS: usize = 3;
const FILE: &str = "resolv.conf";
const STAGED: &str = ".resolv.conf.weft";
const MODE: u32 = 0o644;

/// Why a resolver's file could not be kept up.
#[derive(Debug, Error)]
pub enum ResolverFileError {
    /// A namespace's name that could not be a file name.
    #[error("namespace name {0:?} is not valid; use 1 to 255 bytes without '/' and NUL, not '.' or '..'")]
    Name(String),
    /// The file or its directory could not be read.
    #[error("cannot read {path:?}; check its permissions")]
    Read {
        /// What was read.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The file or its directory could not be written.
    #[error("cannot write {path:?}; names will not resolve in the namespace until that is possible")]
    Write {
        /// What was written.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The file or its directory could not be removed.
    #[error("cannot remove {path:?}; remove it by hand")]
    Remove {
        /// What was to go.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// The name of a network namespace as `ip netns` knows it: one file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetnsName(String);

impl NetnsName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NetnsName {
    type Err = ResolverFileError;

    fn from_str(text: &str) -> Result<Self, ResolverFileError> {
        let escapes = text.contains(['/', '\0']) || text == "." || text == "..";
        if text.is_empty() || text.len() > 255 || escapes {
            return Err(ResolverFileError::Name(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for NetnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The options line of the file, see resolv.conf(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResolverOptions {
    /// How many dots a name needs to be tried as it is first.
    pub ndots: u8,
    /// Seconds until the next server is asked.
    pub timeout: u8,
    /// How often all servers are asked.
    pub attempts: u8,
}

impl Default for ResolverOptions {
    /// `ndots:0`: every name is tried as it is first, and musl tries it in no other way.
    ///
    /// `timeout:5`: the gateway is on this host and does not lose questions, so a slow answer is one that the host's
    /// own resolvers are slow with; with less patience than two of those need (2 s each) the answer would come to
    /// nobody. When the agent is away the kernel refuses at once and no timeout runs. `attempts:2` bridges its restart.
    fn default() -> Self {
        Self { ndots: 0, timeout: 5, attempts: 2 }
    }
}

/// What [`ensure`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// The file holds the content, as it did not before.
    Written,
    /// The file held the content already.
    Unchanged,
    /// A file of somebody else's is there; it was left alone.
    Foreign,
}

/// What [`remove`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// Our file was removed, and its directory if nothing else was in it.
    Removed,
    /// There was no file.
    Absent,
    /// A file of somebody else's is there; it was left alone.
    Foreign,
}

/// The content for a namespace whose networks have these gateways, in the order of preference.
///
/// Every gateway of a container answers for all its networks, so those beyond the three that resolvers read are no
/// loss. `search .` keeps glibc from appending the domain of the host's name. The first line says whose file it is.
pub fn render(gateways: &[IpAddr], options: &ResolverOptions, owner: NodeId) -> String {
    let servers: String = gateways.iter().take(MAX_SERVERS).map(|gateway| format!("nameserver {gateway}\n")).collect();
    let ResolverOptions { ndots, timeout, attempts } = options;
    format!(
        "{}names of this network namespace's overlay networks, rewritten while it is connected\n\
         {servers}search .\noptions ndots:{ndots} timeout:{timeout} attempts:{attempts}\n",
        mark_of(owner)
    )
}

fn mark_of(owner: NodeId) -> String {
    format!("{MARK}, node {owner}: ")
}

/// The namespaces that have a file of this node's: what an agent that was killed has left.
///
/// # Errors
/// When the directory cannot be listed; that it is absent is none.
pub fn owned(base_dir: &Path, owner: NodeId) -> Result<Vec<NetnsName>, ResolverFileError> {
    let failed = |source| ResolverFileError::Read { path: base_dir.to_owned(), source };
    let entries = match fs::read_dir(base_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mark = mark_of(owner);
    let is_own = |name: &NetnsName| {
        // The second is there when the agent was killed while it wrote.
        [FILE, STAGED].iter().any(|file| {
            let found = observe(&base_dir.join(name.as_str()).join(file));
            matches!(found, Ok(Observed::Ours { text, .. }) if text.starts_with(mark.as_bytes()))
        })
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(names.filter(is_own).collect())
}

/// Makes `BASE_DIR/NAME/resolv.conf` hold `content`, with mode 0644, in one step.
///
/// The content reaches the disk before the name does: an empty file after a power failure would look like a foreign one.
///
/// # Errors
/// Whatever reading, writing or renaming in that directory gives.
pub fn ensure(base_dir: &Path, name: &NetnsName, content: &str) -> Result<Ensured, ResolverFileError> {
    let directory = base_dir.join(name.as_str());
    let path = directory.join(FILE);
    match observe(&path)? {
        Observed::Foreign => return Ok(Ensured::Foreign),
        Observed::Ours { text, mode } if text == content.as_bytes() && mode == MODE => return Ok(Ensured::Unchanged),
        Observed::Ours { .. } | Observed::Absent => {}
    }
    let staged = directory.join(STAGED);
    let write = || {
        fs::create_dir_all(&directory)?;
        write_staged(&staged, content)?;
        fs::rename(&staged, &path)
    };
    write().map_err(|source| ResolverFileError::Write { path: path.clone(), source })?;
    Ok(Ensured::Written)
}

/// Removes `BASE_DIR/NAME/resolv.conf` if it is ours, and then `BASE_DIR/NAME` if it is empty.
///
/// # Errors
/// Whatever reading or removing gives.
pub fn remove(base_dir: &Path, name: &NetnsName) -> Result<Removed, ResolverFileError> {
    let directory = base_dir.join(name.as_str());
    let mut is_ours = false;
    for path in [directory.join(STAGED), directory.join(FILE)] {
        match observe(&path)? {
            Observed::Foreign => return Ok(Removed::Foreign),
            Observed::Absent => continue,
            Observed::Ours { .. } => is_ours = true,
        }
        fs::remove_file(&path).map_err(|source| ResolverFileError::Remove { path, source })?;
    }
    if !is_ours {
        return Ok(Removed::Absent);
    }
    match fs::remove_dir(&directory) {
        Err(source) if !matches!(source.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => {
            Err(ResolverFileError::Remove { path: directory, source })
        }
        _ => Ok(Removed::Removed),
    }
}

enum Observed {
    Absent,
    Foreign,
    Ours { text: Vec<u8>, mode: u32 },
}

fn observe(path: &Path) -> Result<Observed, ResolverFileError> {
    let failed = |source| ResolverFileError::Read { path: path.to_owned(), source };
    let metadata = match fs::symlink_metadata(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound) => return Ok(Observed::Absent),
        other => other.map_err(failed)?,
    };
    // We never make links; following one could lead to the host's own file.
    if !metadata.is_file() {
        return Ok(Observed::Foreign);
    }
    let text = fs::read(path).map_err(failed)?;
    if !text.starts_with(MARK.as_bytes()) {
        return Ok(Observed::Foreign);
    }
    Ok(Observed::Ours { text, mode: metadata.permissions().mode() & 0o7777 })
}

fn write_staged(path: &Path, content: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    file.write_all(content.as_bytes())?;
    file.sync_data()
}

#[cfg(test)]
mod tests;
