//! Network namespaces: opening them and doing something inside one.
//!
//! Work inside another namespace happens on a thread that is thrown away afterwards, so no error or panic can leave a
//! thread of the agent in the wrong one. Sockets opened there keep their namespace when they are brought back.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::sched::{CloneFlags, setns};
use thiserror::Error;

/// Why a namespace could not be used.
#[derive(Debug, Error)]
pub enum NetnsError {
    /// There is no such file.
    #[error("opening network namespace {}", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// A file that is no network namespace, or one that we may not enter.
    #[error("entering network namespace {label}")]
    Enter {
        /// What we call it.
        label: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// No thread could be made.
    #[error("making a thread for network namespace {label}")]
    Thread {
        /// What we call it.
        label: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
}

/// An open network namespace. Holding one keeps the namespace alive.
#[derive(Debug, Clone)]
pub struct Namespace {
    file: Arc<File>,
    label: Arc<str>,
}

impl Namespace {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When /proc is not there.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace at a path: `/run/netns/NAME`, `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// When the file cannot be opened. Whether it is a namespace shows when it is entered.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let opened = File::open(path).map_err(|cause| NetnsError::Open { path: path.to_owned(), cause })?;
        Ok(Self { file: Arc::new(opened), label: path.display().to_string().into() })
    }

    /// Device and inode number: what tells one namespace from a later one at the same path.
    ///
    /// # Errors
    /// When the file cannot be examined.
    pub fn identity(&self) -> Result<(u64, u64), NetnsError> {
        let cause = |cause| NetnsError::Enter { label: self.label.to_string(), cause };
        self.file.metadata().map(|m| (m.dev(), m.ino())).map_err(cause)
    }

    /// What it is called in messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Runs `work` inside, on a thread of its own, and waits for it. About 0.1 ms.
    ///
    /// Processes that `work` starts are in the namespace too.
    ///
    /// # Errors
    /// When the namespace cannot be entered; then `work` was not run.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R, NetnsError> {
        std::thread::scope(|scope| {
            let enter = || {
                setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)
                    .map_err(|errno| NetnsError::Enter { label: self.label.to_string(), cause: errno.into() })?;
                Ok(work())
            };
            let thread = std::thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, enter)
                .map_err(|cause| NetnsError::Thread { label: self.label.to_string(), cause })?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_namespace_is_named() {
        let error = Namespace::open(Path::new("/run/netns/not-there")).unwrap_err();

        assert!(error.to_string().contains("/run/netns/not-there"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused_and_the_work_not_run() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let namespace = Namespace::open(file.path()).unwrap();
        let mut ran = false;

        let result = namespace.run(|| ran = true);

        assert!(matches!(result, Err(NetnsError::Enter { .. })));
        assert!(!ran);
    }

    #[test]
    fn the_callers_thread_stays_where_it_is() {
        let before = Namespace::current().unwrap().identity().unwrap();

        let inside = Namespace::current().unwrap().run(|| Namespace::current().unwrap().identity().unwrap()).unwrap();

        assert_eq!(inside, before);
        assert_eq!(Namespace::current().unwrap().identity().unwrap(), before);
    }
}
