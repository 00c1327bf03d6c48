//! The least HTTP that asks an agent's socket or etcd's JSON gateway one question.
//!
//! HTTP/1.0 (RFC 1945): one connection per question, and the end of the connection is the end of the answer, so that
//! nothing has to be known of chunks or reuse. Must not know what is asked.

use std::io::{self, Read, Write};

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// The body, whole.
    pub(crate) body: Vec<u8>,
}

/// Sends a request over a connection that nothing else uses, and reads until its end.
pub(crate) fn ask(mut stream: impl Read + Write, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: lab\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| {
        let shown = String::from_utf8_lossy(answer.get(..80).unwrap_or(&answer)).into_owned();
        io::Error::new(io::ErrorKind::InvalidData, format!("not an HTTP answer: {shown:?}"))
    })
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: answer[end + 4..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_status_and_body_apart() {
        let answer = parse(b"HTTP/1.0 409 Conflict\r\ncontent-type: application/json\r\n\r\n{}\r\n\r\n").unwrap();

        assert_eq!((answer.status, answer.body.as_slice()), (409, &b"{}\r\n\r\n"[..]));
    }

    #[test]
    fn refuses_what_is_not_an_answer() {
        for text in ["", "HTTP/1.1 200 OK\r\n", "SSH-2.0\r\n\r\n", "HTTP/1.1\r\n\r\n"] {
            assert!(parse(text.as_bytes()).is_none(), "{text:?}");
        }
    }
}
