//! An agent that answers one request by script, over a real unix socket.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    thread::{self, JoinHandle},
};

use serde_json::Value;
use tempfile::TempDir;

/// What the agent was asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// Method and path.
    pub(crate) line: String,
    /// The body, `null` if there was none.
    pub(crate) body: Value,
}

/// A listening agent; ends after one request.
pub(crate) struct FakeAgent {
    directory: TempDir,
    thread: JoinHandle<Received>,
}

impl FakeAgent {
    /// Answers with a status and a JSON body.
    pub(crate) fn replies(status: u16, body: &Value) -> Self {
        Self::replies_text(status, &body.to_string())
    }

    /// Answers with a status and any body.
    pub(crate) fn replies_text(status: u16, body: &str) -> Self {
        Self::sends(format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes())
    }

    /// Answers with these bytes and closes the connection.
    pub(crate) fn sends(answer: Vec<u8>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("weft.sock")).unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let received = receive(&stream);
            stream.write_all(&answer).unwrap();
            received
        });
        Self { directory, thread }
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("weft.sock")
    }

    /// What it was asked; call it once the command has ended.
    pub(crate) fn received(self) -> Received {
        self.thread.join().unwrap()
    }
}

fn receive(stream: &UnixStream) -> Received {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let Some((name, value)) = header.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    Received { line, body: if length == 0 { Value::Null } else { serde_json::from_slice(&body).unwrap() } }
}
