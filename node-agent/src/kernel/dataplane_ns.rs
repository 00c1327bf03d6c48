//! The data plane's network namespace: made, adopted, kept, and mounted again when its mount is lost.
//!
//! The namespace is named by a mount at /run/netns/NAME, as iproute2 does it, so that it outlives the agent. That mount is
//! made and looked for among the host's ([`HostMounts`]), also when the agent has mounts of its own. The agent holds a
//! descriptor besides: when somebody unmounts the name, nothing is lost, and the name is put back.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use thiserror::Error;

use super::host_mounts::HostMounts;
use crate::netns::{Namespace, NetnsError};

/// Where names of network namespaces are.
const DIRECTORY: &str = "/run/netns";

/// Why the data plane's namespace could not be had.
#[derive(Debug, Error)]
pub enum DataPlaneNamespaceError {
    /// The directory of names, or the file for the name, could not be prepared.
    #[error("preparing {} for network namespaces", path.display())]
    Directory {
        /// What was to be made.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// No namespace could be made.
    #[error("making a network namespace for {}", path.display())]
    Make {
        /// Where it was to be mounted.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// It could not be mounted at its name.
    #[error("mounting the data plane's network namespace at {}", path.display())]
    Mount {
        /// Its name.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The path is something else after all was done.
    #[error(
        "{} is not the data plane's network namespace after mounting it; something else on this host mounts there",
        path.display()
    )]
    Different {
        /// Its name.
        path: PathBuf,
    },
    /// The host's mounts could not be reached.
    #[error("entering the host's mount namespace for {}", path.display())]
    Mounts {
        /// What was to be done there.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// It could not be opened or entered.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
}

/// The data plane's namespace, held open.
#[derive(Debug, Clone)]
pub struct DataPlaneNamespace {
    namespace: Namespace,
    path: PathBuf,
    mounts: HostMounts,
}

impl DataPlaneNamespace {
    /// Adopts the namespace of this name, or makes it. The name is one below /run/netns.
    ///
    /// # Errors
    /// When it cannot be made, mounted or opened; nothing is left half made but an empty file.
    pub fn ensure(name: &str) -> Result<Self, DataPlaneNamespaceError> {
        Self::ensure_at(HostMounts::find(), Path::new(DIRECTORY), name)
    }

    /// The same below another directory than /run/netns, among these mounts.
    ///
    /// # Errors
    /// As [`Self::ensure`].
    pub fn ensure_at(mounts: HostMounts, directory: &Path, name: &str) -> Result<Self, DataPlaneNamespaceError> {
        let path = directory.join(name);
        let adopt = || is_namespace(&path).then(|| Namespace::open(&path)).transpose();
        if let Some(namespace) = within(&mounts, &path, adopt)?? {
            tracing::info!(netns = %path.display(), "data plane namespace adopted");
            return Ok(Self { namespace, path, mounts });
        }
        let namespace = make(&path)?;
        tracing::info!(netns = %path.display(), "data plane namespace made");
        let made = Self { namespace, path, mounts };
        made.mount()?;
        Ok(made)
    }

    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the name still leads to the namespace that is held. One stat(2), and a thread where the host's mounts are
    /// not the agent's: cheap enough for every second.
    pub fn check_mounted(&self) -> bool {
        self.mounts.run(|| self.is_at_its_name()).unwrap_or(false)
    }

    /// Mounts the namespace at its name again if it is not there. Says whether it had to.
    ///
    /// # Errors
    /// When the name cannot be made or mounted.
    pub fn ensure_mounted(&self) -> Result<bool, DataPlaneNamespaceError> {
        if self.check_mounted() {
            return Ok(false);
        }
        self.mount()?;
        Ok(true)
    }

    fn mount(&self) -> Result<(), DataPlaneNamespaceError> {
        within(&self.mounts, &self.path, || {
            ensure_directory(self.path.parent().unwrap_or_else(|| Path::new(DIRECTORY)))?;
            self.mount_here()
        })?
    }

    fn mount_here(&self) -> Result<(), DataPlaneNamespaceError> {
        let directory = |cause| DataPlaneNamespaceError::Directory { path: self.path.clone(), cause };
        if fs::metadata(&self.path).is_err() {
            File::create(&self.path).map(drop).map_err(directory)?;
        }
        // The system call takes the descriptor's path as it is; a resolved one leads nowhere.
        let source = format!("/proc/self/fd/{}", self.namespace.as_fd().as_raw_fd());
        let failed =
            |errno: nix::Error| DataPlaneNamespaceError::Mount { path: self.path.clone(), cause: errno.into() };
        mount(Some(source.as_str()), &self.path, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(failed)?;
        if self.is_at_its_name() { Ok(()) } else { Err(DataPlaneNamespaceError::Different { path: self.path.clone() }) }
    }

    /// As the calling thread sees it.
    fn is_at_its_name(&self) -> bool {
        let here = fs::metadata(&self.path).map(|found| (found.dev(), found.ino())).ok();
        here.is_some() && here == self.namespace.identity().ok()
    }
}

fn within<R: Send>(
    mounts: &HostMounts,
    path: &Path,
    work: impl FnOnce() -> R + Send,
) -> Result<R, DataPlaneNamespaceError> {
    mounts.run(work).map_err(|cause| DataPlaneNamespaceError::Mounts { path: path.to_owned(), cause })
}

/// A network namespace is mounted there. A plain file is left when one was unmounted or is hidden.
fn is_namespace(path: &Path) -> bool {
    const NSFS_MAGIC: nix::sys::statfs::FsType = nix::sys::statfs::NSFS_MAGIC;
    nix::sys::statfs::statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Makes the directory, and a shared mount of it, so that names made later are seen in other mount namespaces too.
fn ensure_directory(directory: &Path) -> Result<(), DataPlaneNamespaceError> {
    let failed = |cause| DataPlaneNamespaceError::Directory { path: directory.to_owned(), cause };
    fs::create_dir_all(directory).map_err(failed)?;
    let share = || mount(None::<&str>, directory, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    if share().is_ok() {
        return Ok(());
    }
    // Not a mount point yet.
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(directory), directory, None::<&str>, bind, None::<&str>).map_err(|errno| failed(errno.into()))?;
    share().map_err(|errno| failed(errno.into()))
}

/// A new namespace, made on a thread that ends with it.
fn make(path: &Path) -> Result<Namespace, DataPlaneNamespaceError> {
    let failed = |cause| DataPlaneNamespaceError::Make { path: path.to_owned(), cause };
    let unshared = || -> Result<Namespace, DataPlaneNamespaceError> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
        Ok(Namespace::current()?)
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, unshared).map_err(failed)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
