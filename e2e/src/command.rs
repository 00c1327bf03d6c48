//! Running a program to its end and keeping what it said.
//!
//! Owns the one form in which results of programs travel through the crate. Starting daemons is
//! [`process`](crate::process)'s matter, choosing a namespace [`netns`](crate::netns)'s.

use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::eventually::wait_until;

/// What a finished program returned and printed.
#[derive(Debug, Clone)]
pub struct CommandOutput {
    /// The command line, for messages.
    pub line: String,
    /// Exit status, 128 + signal number when a signal ended it, as shells count.
    pub status: u8,
    /// Standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// Standard error, invalid UTF-8 replaced.
    pub stderr: String,
}

impl CommandOutput {
    /// Runs `command` to its end with standard input closed.
    ///
    /// # Errors
    /// When the program cannot be started; its own failure is in [`Self::status`].
    pub fn of(command: &mut Command) -> Result<Self> {
        let line = command_line(command);
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting `{line}`"))?;
        Ok(Self::new(line, &output))
    }

    /// Like [`Self::of`], but a program that has not ended after `deadline` is killed.
    ///
    /// # Errors
    /// When the program cannot be started or did not end in time.
    pub fn within(command: &mut Command, deadline: Duration) -> Result<Self> {
        let line = command_line(command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting `{line}`"))?;
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        let ended = wait_until(deadline, &format!("end of `{line}`"), || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("running".to_owned()),
            Err(error) => Err(error.to_string()),
        });
        if ended.is_err() {
            child.kill().with_context(|| format!("ending `{line}`"))?;
            child.wait().with_context(|| format!("ending `{line}`"))?;
        }
        let output = Output {
            status: ended?,
            stdout: joined(stdout).with_context(|| format!("reading from `{line}`"))?,
            stderr: joined(stderr).with_context(|| format!("reading from `{line}`"))?,
        };
        Ok(Self::new(line, &output))
    }

    fn new(line: String, output: &Output) -> Self {
        Self {
            line,
            status: exit_code(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// True when the exit status is 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status == 0
    }

    /// Standard output of a program that succeeded.
    ///
    /// # Errors
    /// When the status is not 0: command line, status and both outputs.
    pub fn success(self) -> Result<String> {
        if !self.is_success() {
            bail!(
                "`{}` ended with status {}: {}{}",
                self.line,
                self.status,
                self.stderr.trim_end(),
                self.stdout.trim_end()
            );
        }
        Ok(self.stdout)
    }
}

type Collector = thread::JoinHandle<io::Result<Vec<u8>>>;

/// Reads on a thread, so that a program never waits for its output to be read.
fn collect(mut stream: impl Read + Send + 'static) -> Collector {
    thread::spawn(move || {
        let mut content = Vec::new();
        stream.read_to_end(&mut content)?;
        Ok(content)
    })
}

fn joined(collector: Option<Collector>) -> io::Result<Vec<u8>> {
    match collector.map(thread::JoinHandle::join) {
        Some(Ok(content)) => content,
        Some(Err(panic)) => std::panic::resume_unwind(panic),
        None => Ok(Vec::new()),
    }
}

/// Exit status as shells count it: 128 + signal number after a signal.
#[must_use]
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// The program and its arguments, separated by blanks.
#[must_use]
pub fn command_line(command: &Command) -> String {
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_that_hangs_is_ended_at_its_deadline() {
        let mut command = Command::new("sleep");

        let error = CommandOutput::within(command.arg("60"), Duration::from_millis(50)).expect_err("it sleeps longer");

        assert!(error.to_string().contains("`sleep 60`"), "{error:#}");
    }

    #[test]
    fn outputs_longer_than_a_pipe_holds_are_kept_whole() {
        let mut command = Command::new("sh");
        command.args(["-c", "head -c 200000 /dev/zero; echo oops >&2; kill -9 $$"]);

        let output = CommandOutput::within(&mut command, Duration::from_secs(10)).unwrap();

        assert_eq!((output.stdout.len(), output.stderr.as_str()), (200_000, "oops\n"));
        assert_eq!(output.status, 137);
        assert!(output.success().is_err());
    }
}
