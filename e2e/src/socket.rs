//! Raw requests to an agent's socket, for what the `weft` command would never send.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// How long an answer may take. An agent that waits for more of a request does not answer at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// An answer of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketAnswer {
    /// HTTP status.
    pub status: u16,
    /// The body, invalid UTF-8 replaced.
    pub body: String,
}

/// A request with a JSON body.
#[must_use]
pub fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: weft\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Sends bytes as they are and reads until the agent closes the connection.
///
/// # Errors
/// When the agent cannot be reached, gives no answer within 10 s, or one that is not HTTP.
pub fn exchange(socket: &Path, bytes: &[u8]) -> Result<SocketAnswer> {
    let text = send(socket, bytes).with_context(|| format!("exchanging bytes with {}", socket.display()))?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("reading an answer from {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.with_context(|| format!("reading a status from {head:?}"))?;
    Ok(SocketAnswer { status, body: body.to_owned() })
}

fn send(socket: &Path, bytes: &[u8]) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    // An agent may refuse before it has read everything; its answer says why.
    drop(stream.write_all(bytes));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // What was sent in vain is discarded with a reset, after the answer.
        Err(error) if answer.is_empty() || error.kind() != io::ErrorKind::ConnectionReset => return Err(error),
        _ => {}
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
