//! Running a program to its end and keeping what it said.
//!
//! Owns the one form in which results of programs travel through the crate. Starting daemons is
//! [`process`](crate::process)'s matter, choosing a namespace [`netns`](crate::netns)'s.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Output, Stdio};

use anyhow::{Context, Result, bail};

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
        let output = command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("starting `{line}`"))?;
        Ok(Self::new(line, &output))
    }

    pub(crate) fn new(line: String, output: &Output) -> Self {
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

/// Exit status as shells count it: 128 + signal number after a signal.
#[must_use]
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(u8::MAX)
}

/// The program and its arguments, separated by blanks.
#[must_use]
pub fn command_line(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    words.join(" ")
}
