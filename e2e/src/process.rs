//! Daemons of the lab: starting them detached, observing and signalling them.
//!
//! A process is known by its id *and* its start time, so that a recycled id is never signalled.
//! Nothing here looks for processes by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::eventually::wait_until;
use crate::netns::{NetnsId, NetnsName};

/// What it takes to start a daemon, and to start it again in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonSpec {
    /// Absolute path of the program, or a name to be found in `PATH`.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Environment on top of the caller's.
    pub environment: BTreeMap<String, String>,
    /// The network namespace it runs in.
    pub netns: NetnsName,
    /// Where both its outputs are appended.
    pub log: PathBuf,
}

impl DaemonSpec {
    /// Starts the daemon in a session of its own, standard input closed.
    ///
    /// A program that cannot be run ends at once with its reason in the log.
    ///
    /// # Errors
    /// When the log cannot be opened, the namespace not entered or no process made.
    pub fn start(&self) -> Result<ProcessId> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("opening log {}", self.log.display()))?;
        let errors = log.try_clone().context("duplicating a log descriptor")?;
        let mut command = Command::new("setsid");
        command
            .arg(&self.program)
            .args(&self.arguments)
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        let child = self.netns.spawn(&mut command)?;
        let pid = i32::try_from(child.id()).context("reading a process id")?;
        ProcessId::of(pid).with_context(|| format!("reading the start time of process {pid}"))
    }
}

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    pid: i32,
    /// Clock ticks since boot at which it was started: field 22 of `/proc/PID/stat`, proc(5).
    start_time: u64,
}

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// It runs or sleeps.
    Running,
    /// SIGSTOP holds it.
    Paused,
    /// It ended; its id may belong to another process.
    Stopped,
}

impl ProcessState {
    /// The word for tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl ProcessId {
    /// Reads the start time of a process; `None` when there is none of that number.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        Some(Self { pid, start_time: stat.start_time })
    }

    /// The process number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Looks at the process. A zombie has stopped; if it is a child of this process it is reaped.
    #[must_use]
    pub fn observe_state(&self) -> ProcessState {
        match Stat::read(self.pid) {
            Some(stat) if stat.start_time != self.start_time => ProcessState::Stopped,
            Some(stat) => match stat.state {
                'Z' | 'X' if self.has_ended() => ProcessState::Stopped,
                'T' | 't' => ProcessState::Paused,
                _ => ProcessState::Running,
            },
            None => ProcessState::Stopped,
        }
    }

    /// Sends `signal` unless the process has ended; says whether it was sent.
    ///
    /// # Errors
    /// When the signal is not permitted.
    pub fn signal(&self, signal: Signal) -> Result<bool> {
        if self.observe_state() == ProcessState::Stopped {
            return Ok(false);
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(errno) => Err(errno).with_context(|| format!("sending {signal} to process {}", self.pid)),
        }
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    /// When it still exists after `deadline`.
    pub fn wait_stopped(&self, deadline: Duration) -> Result<()> {
        let what = format!("end of process {}", self.pid);
        wait_until(deadline, &what, || match self.observe_state() {
            ProcessState::Stopped => Ok(()),
            state => Err(state.as_str().to_owned()),
        })?;
        Ok(())
    }

    /// The first thread is a zombie while others still end and hold the sockets; only when they
    /// are gone can the process be reaped. A zombie of another parent is that parent's to reap.
    fn has_ended(&self) -> bool {
        match waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => false,
            Ok(_) => true,
            Err(_) => fs::read_dir(format!("/proc/{}/task", self.pid)).map_or(true, |threads| threads.count() <= 1),
        }
    }
}

/// The processes whose network namespace is one of `namespaces`, without the calling process.
#[must_use]
pub fn observe_inside(namespaces: &BTreeSet<NetnsId>) -> Vec<ProcessId> {
    let own = i32::try_from(std::process::id()).ok();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| Some(*pid) != own)
        .filter(|pid| {
            NetnsId::of(Path::new(&format!("/proc/{pid}/ns/net"))).is_some_and(|netns| namespaces.contains(&netns))
        })
        .filter_map(ProcessId::of)
        .collect()
}

struct Stat {
    state: char,
    start_time: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The program's name, in parentheses, may hold blanks and parentheses itself.
    fn parse(line: &str) -> Option<Self> {
        let (_, after_name) = line.rsplit_once(')')?;
        let mut fields = after_name.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        // State is field 3 of the line and start time field 22.
        let start_time = fields.nth(18)?.parse().ok()?;
        Some(Self { state, start_time })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_past_parentheses_in_the_program_name() {
        let line = "42 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9876 100 200";

        let stat = Stat::parse(line).unwrap();

        assert_eq!((stat.state, stat.start_time), ('S', 9876));
    }

    #[test]
    fn process_with_another_start_time_is_neither_seen_nor_signalled() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let present = ProcessId::of(i32::try_from(child.id()).unwrap()).unwrap();
        let recycled = ProcessId { start_time: present.start_time + 1, ..present };

        let sent = recycled.signal(Signal::SIGKILL).unwrap();

        assert!(!sent);
        assert_eq!(recycled.observe_state(), ProcessState::Stopped);
        assert_eq!(present.observe_state(), ProcessState::Running);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn state_follows_stop_continue_and_kill() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = ProcessId::of(i32::try_from(child.id()).unwrap()).unwrap();
        let becomes = |wanted| {
            crate::eventually(Duration::from_secs(5), "process state", || {
                let state = process.observe_state();
                if state == wanted { Ok(()) } else { Err(format!("{state:?}")) }
            });
        };

        assert!(process.signal(Signal::SIGSTOP).unwrap());
        becomes(ProcessState::Paused);
        assert!(process.signal(Signal::SIGCONT).unwrap());
        becomes(ProcessState::Running);
        assert!(process.signal(Signal::SIGKILL).unwrap());
        becomes(ProcessState::Stopped);

        assert!(!process.signal(Signal::SIGKILL).unwrap());
        assert!(child.wait().is_err(), "it has been reaped already");
    }
}
