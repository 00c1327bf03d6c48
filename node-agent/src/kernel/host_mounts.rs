//! Mounts that everybody on the host is to see, and that outlive the agent.
//!
//! A service manager that sandboxes the agent gives it a mount namespace of its own, which receives what the host mounts
//! and shows the host nothing. What must be seen by others is mounted in the mount namespace of the host's first process,
//! on a thread that ends afterwards; everything else of the agent stays in its sandbox.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
    sync::Arc,
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};
use tracing::{info, warn};

/// The mount namespace of the host's first process.
const FIRST_PROCESS: &str = "/proc/1/ns/mnt";
const OWN: &str = "/proc/thread-self/ns/mnt";

/// Where to mount what others are to see.
#[derive(Debug, Clone, Default)]
pub struct HostMounts {
    /// Absent: the agent's own mount namespace is the place.
    entered: Option<Arc<File>>,
}

impl HostMounts {
    /// The mount namespace of the host's first process; that of the calling thread where it is the same, or where the
    /// other may not be entered, which is logged with what follows from it.
    pub fn find() -> Self {
        match Self::of(Path::new(FIRST_PROCESS)) {
            Ok(found) => {
                if found.entered.is_some() {
                    info!("the agent has mounts of its own; network namespaces are named in the host's");
                }
                found
            }
            Err(error) => {
                warn!(
                    %error,
                    "the host's mount namespace cannot be entered. If the agent has one of its own, nobody else sees the \
                     data plane's namespace, and it ends with the agent: containers are then cut off at every restart. \
                     Remedy: give the agent CAP_SYS_ADMIN, CAP_SYS_CHROOT and CAP_SYS_PTRACE and, if its unit has \
                     RestrictNamespaces, `net mnt` there; or leave out what gives it a mount namespace (ProtectSystem, \
                     PrivateTmp and the like)"
                );
                Self::default()
            }
        }
    }

    /// The mount namespace at a path; nothing will be entered where that is the calling thread's.
    ///
    /// # Errors
    /// When it cannot be examined or entered. That needs CAP_SYS_ADMIN, CAP_SYS_CHROOT and, for a process with more
    /// capabilities than the caller, CAP_SYS_PTRACE.
    pub fn of(path: &Path) -> io::Result<Self> {
        let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
        if identity(path)? == identity(Path::new(OWN))? {
            return Ok(Self::default());
        }
        let found = Self { entered: Some(Arc::new(File::open(path)?)) };
        found.run(|| ())?;
        Ok(found)
    }

    /// Runs `work` where the mounts are. Paths lead there meanwhile; descriptors are the caller's as ever.
    ///
    /// # Errors
    /// When the mount namespace cannot be entered; then `work` was not run.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> io::Result<R> {
        let Some(target) = &self.entered else { return Ok(work()) };
        let enter = || {
            // A thread shares its working directory with the others until this; setns(2) insists on its own.
            unshare(CloneFlags::CLONE_FS)?;
            setns(target.as_fd(), CloneFlags::CLONE_NEWNS)?;
            Ok(work())
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("mounts".to_owned()).spawn_scoped(scope, enter)?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
