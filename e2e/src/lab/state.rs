//! The record of what the lab owns: `/run/weft-lab/state.json`.
//!
//! Written before each thing is made, replaced atomically, changed only under the lock of
//! `/run/weft-lab/lock`. Readers need no lock.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::LabOptions;
use crate::netns::{NETNS_DIRECTORY, NetnsId, NetnsName};
use crate::process::{DaemonSpec, ProcessId};
use crate::topology::{HostId, Topology};

/// Everything that the lab writes to disk, apart from a `--data-dir`, is in here.
pub(super) const RUN_DIRECTORY: &str = "/run/weft-lab";

/// What the lab is and owns.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LabState {
    pub(super) options: LabOptions,
    /// Absolute path of the binary under test.
    pub(super) weft: Option<PathBuf>,
    /// False until everything has answered once.
    pub(super) ready: bool,
    /// What the directory of named namespaces was before the lab.
    pub(super) netns_directory: NetnsDirectory,
    pub(super) namespaces: Vec<NamespaceRecord>,
    /// Directory of etcd's data below the one that the user chose.
    pub(super) data_directory: Option<PathBuf>,
    pub(super) daemons: Vec<DaemonRecord>,
    pub(super) containers: Vec<ContainerRecord>,
}

/// A namespace that the lab makes, or that one of its agents makes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct NamespaceRecord {
    pub(super) name: NetnsName,
    /// Absent while it is not made, and for those that agents make and may make anew.
    pub(super) id: Option<NetnsId>,
}

/// A daemon, by the name under which users stop it: `h1`, `controller`, `etcd1`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct DaemonRecord {
    pub(super) name: String,
    pub(super) spec: DaemonSpec,
    pub(super) process: Option<ProcessId>,
}

/// A container namespace that the lab made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    pub(super) name: NetnsName,
    pub(super) host: HostId,
    pub(super) id: Option<NetnsId>,
}

/// State of `/run/netns` before the lab; the first `ip netns add` makes it a mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum NetnsDirectory {
    Absent,
    Plain,
    MountPoint,
}

impl NetnsDirectory {
    pub(super) fn observe() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading mountinfo")?;
        let is_mounted = mounts.lines().any(|line| line.split(' ').nth(4) == Some(NETNS_DIRECTORY));
        Ok(if is_mounted {
            Self::MountPoint
        } else if Path::new(NETNS_DIRECTORY).exists() {
            Self::Plain
        } else {
            Self::Absent
        })
    }
}

impl LabState {
    pub(super) fn topology(&self) -> Topology {
        self.options.topology()
    }

    pub(super) fn daemon(&mut self, name: &str) -> Option<&mut DaemonRecord> {
        self.daemons.iter_mut().find(|daemon| daemon.name == name)
    }

    pub(super) fn container(&self, name: &NetnsName) -> Option<&ContainerRecord> {
        self.containers.iter().find(|container| container.name == *name)
    }

    pub(super) fn owns_namespace(&self, name: &NetnsName) -> bool {
        self.namespaces.iter().any(|record| record.name == *name)
    }
}

/// The state file, locked against other writers.
#[derive(Debug)]
pub(super) struct StateFile {
    _lock: Flock<File>,
}

impl StateFile {
    /// Reads the state without a lock; `None` when there is no lab.
    pub(super) fn observe() -> Result<Option<LabState>> {
        let path = state_path();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("reading {}", path.display()));
            }
        };
        let state = serde_json::from_slice(&text).with_context(|| {
            format!("decoding {}: written by another version of weft-lab, or damaged", path.display())
        })?;
        Ok(Some(state))
    }

    /// Waits for the lock, making the directory for it.
    pub(super) fn lock_for_new() -> Result<Self> {
        loop {
            fs::create_dir_all(RUN_DIRECTORY).with_context(|| format!("making {RUN_DIRECTORY}"))?;
            if let Some(file) = Self::lock()? {
                return Ok(file);
            }
        }
    }

    /// Waits for the lock; `None` when the lab's directory does not exist.
    pub(super) fn lock() -> Result<Option<Self>> {
        loop {
            let file = match File::options().create(true).append(true).open(lock_path()) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => {
                    return Err(error).with_context(|| format!("opening {}", lock_path().display()));
                }
            };
            let lock = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| errno)
                .context("locking the lab's state")?;
            // Whoever held the lock may have removed the directory and with it this file.
            let locked = lock.metadata().context("reading the lock file")?.ino();
            if fs::metadata(lock_path()).is_ok_and(|present| present.ino() == locked) {
                return Ok(Some(Self { _lock: lock }));
            }
        }
    }

    pub(super) fn load(&self) -> Result<Option<LabState>> {
        Self::observe()
    }

    /// Replaces the state in one step.
    pub(super) fn save(&self, state: &LabState) -> Result<()> {
        let path = state_path();
        let draft = path.with_extension("json.new");
        let text = serde_json::to_vec_pretty(state).context("encoding the lab's state")?;
        fs::write(&draft, text).with_context(|| format!("writing {}", draft.display()))?;
        fs::rename(&draft, &path).with_context(|| format!("replacing {}", path.display()))
    }
}

fn state_path() -> PathBuf {
    Path::new(RUN_DIRECTORY).join("state.json")
}

fn lock_path() -> PathBuf {
    Path::new(RUN_DIRECTORY).join("lock")
}
