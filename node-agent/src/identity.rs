//! Who this node is: what the agent keeps in its state directory.
//!
//! The node's id is random and made once; host name and machine id may be cloned and changed. A lock keeps a second
//! agent out of the same directory. Nothing here is needed to keep traffic flowing.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;
use weft_overlay::id::NodeId;

/// Why the state directory cannot be used.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// It cannot be made, read or written.
    #[error("{action} {}", path.display())]
    Io {
        /// What was done, such as "writing".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// Another agent uses it.
    #[error("another agent runs with the state directory {}; stop it, or give this one another --state-dir", .0.display())]
    Locked(PathBuf),
    /// The node id there is damaged.
    #[error(
        "{} does not hold a node id but {content:?}; restore it, or remove it to make this host a new node",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it holds, shortened.
        content: String,
    },
}

/// The state directory, locked.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl StateDir {
    /// Makes the directory where it is missing, and locks it until this is dropped.
    ///
    /// # Errors
    /// When that fails or another agent holds the lock.
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |cause| IdentityError::Io { action, path, cause }
        };
        fs::create_dir_all(path).map_err(io("creating", path))?;
        let lock = path.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock)
            .map_err(io("opening", &lock))?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        let held = locked.map_err(|_| IdentityError::Locked(path.to_owned()))?;
        Ok(Self { path: path.to_owned(), _lock: held })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node's id, made of `entropy` where there is none yet.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds something else.
    pub fn node_id(&self, entropy: u64) -> Result<NodeId, IdentityError> {
        let path = self.path.join("node-id");
        if let Some(text) = self.read("node-id")? {
            let damaged = |_| IdentityError::Damaged { path, content: text.chars().take(80).collect() };
            return text.trim().parse().map_err(damaged);
        }
        let id = NodeId::from_entropy(entropy);
        self.write("node-id", format!("{id}\n").as_bytes())?;
        Ok(id)
    }

    /// The lease that the node's sign of life hung on when it was last written.
    pub fn lease(&self) -> Option<i64> {
        self.read("lease").ok().flatten().and_then(|text| i64::from_str_radix(text.trim(), 16).ok())
    }

    /// Keeps the lease for the next start.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_lease(&self, lease: i64) -> Result<(), IdentityError> {
        self.write("lease", format!("{lease:x}\n").as_bytes())
    }

    /// The bytes of a file that [`Self::write_frame`] wrote, if there is one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_frame(&self, name: &str) -> Result<Option<Vec<u8>>, IdentityError> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(IdentityError::Io { action: "reading", path, cause }),
        }
    }

    /// Keeps bytes durably.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_frame(&self, name: &str, bytes: &[u8]) -> Result<(), IdentityError> {
        self.write(name, bytes)
    }

    fn read(&self, name: &str) -> Result<Option<String>, IdentityError> {
        let path = self.path.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(IdentityError::Io { action: "reading", path, cause }),
        }
    }

    /// Replaces a file, durably: after a crash there is the old content or the new one.
    fn write(&self, name: &str, content: &[u8]) -> Result<(), IdentityError> {
        let path = self.path.join(name);
        let draft = self.path.join(format!("{name}.new"));
        let written = || -> io::Result<()> {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.path)?.sync_all()
        };
        written().map_err(|cause| IdentityError::Io { action: "writing", path: path.clone(), cause })
    }
}

/// The boot id of the kernel.
///
/// # Errors
/// When /proc is not there.
pub fn boot_id() -> Result<String, IdentityError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let io = |cause| IdentityError::Io { action: "reading", path: path.to_owned(), cause };
    fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap().node_id(7).unwrap();

        assert_eq!(StateDir::open(dir.path()).unwrap().node_id(8).unwrap(), first);
    }

    #[test]
    fn a_second_agent_is_kept_out() {
        let dir = tempfile::tempdir().unwrap();
        let _first = StateDir::open(dir.path()).unwrap();

        assert!(matches!(StateDir::open(dir.path()), Err(IdentityError::Locked(_))));
    }

    #[test]
    fn a_damaged_id_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("node-id"), "gibberish").unwrap();

        let error = StateDir::open(dir.path()).unwrap().node_id(7).unwrap_err();

        assert!(error.to_string().contains("gibberish"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("node-id")).unwrap(), "gibberish");
    }

    #[test]
    fn the_lease_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        StateDir::open(dir.path()).unwrap().set_lease(0x1234_5678_9abc).unwrap();

        assert_eq!(StateDir::open(dir.path()).unwrap().lease(), Some(0x1234_5678_9abc));
    }
}
