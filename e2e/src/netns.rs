//! Named network namespaces: making, entering, finding and removing them.
//!
//! Entering means `setns` of one thread's *network* namespace, never more: mount namespace,
//! control groups and process ids stay those of the caller, as they would be on a real host.
//! What is done inside runs on a thread of its own that ends afterwards, so no other code is
//! ever caught in a foreign namespace. A socket stays in the namespace where it was made.

use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::thread;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use serde::{Deserialize, Serialize};

use crate::command::CommandOutput;

/// Where iproute2 keeps named namespaces.
pub const NETNS_DIRECTORY: &str = "/run/netns";

/// Longest accepted name: a file name holds 255 bytes.
const LONGEST_NAME: usize = 200;

/// The name of a network namespace: one path component.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetnsName(String);

/// A name that cannot be that of a network namespace.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{name}` cannot name a network namespace: use 1 to {LONGEST_NAME} of the characters A-Z a-z 0-9 . _ -, not starting with . or -"
)]
pub struct BadNetnsName {
    name: String,
}

impl FromStr for NetnsName {
    type Err = BadNetnsName;

    fn from_str(name: &str) -> Result<Self, BadNetnsName> {
        let good_characters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        let good_length = (1..=LONGEST_NAME).contains(&name.len());
        if good_characters && good_length && !name.starts_with(['.', '-']) {
            Ok(Self(name.to_owned()))
        } else {
            let name = name.escape_default().take(LONGEST_NAME).collect();
            Err(BadNetnsName { name })
        }
    }
}

impl TryFrom<String> for NetnsName {
    type Error = BadNetnsName;

    fn try_from(name: String) -> Result<Self, BadNetnsName> {
        name.parse()
    }
}

impl From<NetnsName> for String {
    fn from(name: NetnsName) -> Self {
        name.0
    }
}

impl fmt::Display for NetnsName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl NetnsName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The file whose mount keeps the namespace alive.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIRECTORY).join(&self.0)
    }

    /// True when something of this name exists, a namespace or a dead mount point.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path().symlink_metadata().is_ok()
    }

    /// Which namespace the name stands for, `None` without one.
    #[must_use]
    pub fn observe_id(&self) -> Option<NetnsId> {
        NetnsId::of(&self.path())
    }

    /// Runs `action` on a thread that has entered this namespace, and waits for it.
    ///
    /// # Errors
    /// When the namespace does not exist or may not be entered. A panic of `action` goes on in
    /// the caller.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter_this_thread()?;
                Ok(action())
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Moves the calling thread into this namespace for good.
    ///
    /// # Errors
    /// When the namespace does not exist or may not be entered.
    pub fn enter_this_thread(&self) -> Result<()> {
        let file = File::open(self.path()).with_context(|| format!("opening network namespace {self}"))?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering network namespace {self}"))
    }

    /// Starts `command` in this namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the program cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let line = crate::command::command_line(command);
        self.enter(|| command.spawn())?.with_context(|| format!("starting `{line}` in {self}"))
    }

    /// Runs `command` to its end in this namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the program cannot be started.
    pub fn output(&self, command: &mut Command) -> Result<CommandOutput> {
        self.enter(|| CommandOutput::of(command))?
    }

    /// Runs a program of words with `input` on its standard input; for `ip -batch -` and `nft -f -`.
    ///
    /// # Errors
    /// When it cannot be started or fails; its message is in the error.
    pub fn feed(&self, words: &[&str], input: &str) -> Result<()> {
        self.enter(|| feed(words, input))?.with_context(|| format!("configuring {self}"))
    }

    /// Sets one kernel parameter of this namespace, given as a path below `/proc/sys`.
    ///
    /// # Errors
    /// When the parameter does not exist or refuses the value.
    pub fn write_sysctl(&self, path: &str, value: &str) -> Result<()> {
        self.enter(|| fs::write(Path::new("/proc/sys").join(path), value))?
            .with_context(|| format!("setting {path} to {value} in {self}"))
    }

    /// Removes the name, as `ip netns del` does; nothing happens when there is none. The kernel
    /// frees the namespace once no process is in it.
    ///
    /// # Errors
    /// When the mount or the file cannot be removed.
    pub fn ensure_removed(&self) -> Result<()> {
        match umount2(&self.path(), MntFlags::MNT_DETACH) {
            // EINVAL: a plain file, left when something else took the mount away.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => {
                return Err(errno).with_context(|| format!("unmounting network namespace {self}"));
            }
        }
        match fs::remove_file(self.path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing network namespace {self}"))
            }
            _ => Ok(()),
        }
    }
}

/// Identity of a network namespace: a name may be given to another one later, this may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

impl NetnsId {
    /// Reads the identity from a namespace file such as `/proc/PID/ns/net`.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self { device: metadata.dev(), inode: metadata.ino() })
    }

    /// The namespace of the calling thread.
    #[must_use]
    pub fn of_this_thread() -> Option<Self> {
        Self::of(Path::new("/proc/thread-self/ns/net"))
    }
}

/// True when the file is a namespace's, false for the plain file that a lost mount leaves.
pub(crate) fn is_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Makes named namespaces, with the program that users would take.
///
/// # Errors
/// When one of them exists or cannot be made; the others may have been made.
pub fn create(names: &[&NetnsName]) -> Result<()> {
    let batch: String = names.iter().map(|name| format!("netns add {name}\n")).collect();
    feed(&["ip", "-batch", "-"], &batch).context("making network namespaces")
}

fn feed(words: &[&str], input: &str) -> Result<()> {
    let (program, arguments) = words.split_first().context("running an empty command")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    let mut stdin = child.stdin.take().expect("standard input is piped above");
    // A program that fails early closes its input; its message says more than the broken pipe.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().with_context(|| format!("waiting for {program}"))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` refused: {}\ninput was:\n{input}", words.join(" "), message.trim_end());
    }
    written.with_context(|| format!("writing to {program}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_one_path_component_only() {
        for name in ["ct1", "weft-h1", "a.b_c-d", &"x".repeat(200)] {
            assert_eq!(name.parse::<NetnsName>().map(String::from), Ok(name.into()));
        }
        for name in ["", ".", "..", "a/b", "-n", "a b", "a\0", "é", &"x".repeat(201)] {
            assert!(name.parse::<NetnsName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn entering_an_absent_namespace_names_it() {
        let absent: NetnsName = "no-such-namespace".parse().unwrap();

        let error = absent.enter(|| ()).unwrap_err();

        assert!(error.to_string().contains("no-such-namespace"), "{error:#}");
    }
}
