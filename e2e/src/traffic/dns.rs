//! A DNS client and a DNS server, as much of both as tests of names need (RFC 1035, RFC 3596).
//!
//! The client shows what an agent's answer really holds, in its order, which the C library's resolver does not.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::netns::NetnsName;

/// How often the server looks whether it is to end.
const POLL: Duration = Duration::from_millis(20);
/// How long the client waits for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Attempts over UDP.
const ATTEMPTS: u32 = 3;

const HEADER: usize = 12;
const CLASS_INTERNET: u16 = 1;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Names of an address.
    Ptr,
}

/// How the question travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One datagram each way.
    Udp,
    /// A connection.
    Tcp,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// RCODE: 0 no error, 3 no such name.
    pub code: u8,
    /// Addresses or names, in the order of the answer.
    pub values: Vec<String>,
    /// Lowest time to live in seconds of the records.
    pub ttl: Option<u32>,
}

impl Record {
    fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Ptr => 12,
            Self::Aaaa => 28,
        }
    }
}

/// The name under which an address is looked up in reverse.
#[must_use]
pub fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let octets = address.octets();
            let nibbles = octets.iter().rev().map(|octet| format!("{:x}.{:x}.", octet & 0xf, octet >> 4));
            format!("{}ip6.arpa", nibbles.collect::<String>())
        }
    }
}

/// Asks the server at `server` from namespace `from`.
///
/// # Errors
/// When there is no answer, or it is not one to the question.
pub fn ask(from: &str, server: IpAddr, transport: Transport, name: &str, record: Record) -> Result<Answer> {
    let from: NetnsName = from.parse()?;
    let question = question(name, record)?;
    let server = SocketAddr::new(server, 53);
    let answer = from.enter(|| match transport {
        Transport::Udp => exchange_udp(server, &question),
        Transport::Tcp => exchange_tcp(server, &question),
    })?;
    let answer = answer.with_context(|| format!("asking {server} from {from} for {name}"))?;
    parse(&answer, &question).with_context(|| format!("reading the answer of {server} about {name}"))
}

/// The first name server in the `resolv.conf` of a named namespace.
///
/// # Errors
/// When the file is missing or names none.
pub fn resolver_of(netns: &str) -> Result<IpAddr> {
    let path = format!("/etc/netns/{netns}/resolv.conf");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let server = text.lines().find_map(|line| line.strip_prefix("nameserver "));
    server.with_context(|| format!("looking for a name server in {path}"))?.trim().parse().context("reading an address")
}

fn exchange_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    socket.connect(server)?;
    let mut buffer = [0; 4096];
    let mut attempt = 1;
    loop {
        socket.send(question)?;
        match socket.recv(&mut buffer) {
            Ok(length) => return Ok(buffer[..length].to_vec()),
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(_) => attempt += 1,
        }
    }
}

fn exchange_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn question(name: &str, record: Record) -> Result<Vec<u8>> {
    const RECURSION_DESIRED: u8 = 1;
    let mut bytes = vec![0x5a, 0x17, RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        bytes.push(u8::try_from(label.len()).context("encoding a label")?);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&record.number().to_be_bytes());
    bytes.extend_from_slice(&CLASS_INTERNET.to_be_bytes());
    Ok(bytes)
}

fn parse(answer: &[u8], question: &[u8]) -> Result<Answer> {
    ensure!(answer.len() >= HEADER && answer[..2] == question[..2], "it belongs to no question of ours");
    let count = u16::from_be_bytes([answer[6], answer[7]]);
    let (_, mut at) = read_name(answer, HEADER)?;
    at += 4;
    let mut values = Vec::new();
    let mut ttl: Option<u32> = None;
    for _ in 0..count {
        let (_, after_name) = read_name(answer, at)?;
        let fixed = answer.get(after_name..after_name + 10).context("a record is cut off")?;
        let kind = u16::from_be_bytes([fixed[0], fixed[1]]);
        let lifetime = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let start = after_name + 10;
        let content = answer.get(start..start + length).context("a record is cut off")?;
        values.push(read_value(answer, kind, start, content)?);
        ttl = Some(ttl.map_or(lifetime, |lowest| lowest.min(lifetime)));
        at = start + length;
    }
    Ok(Answer { code: answer[3] & 0xf, values, ttl })
}

fn read_value(answer: &[u8], kind: u16, start: usize, content: &[u8]) -> Result<String> {
    match kind {
        1 => Ok(IpAddr::from(<[u8; 4]>::try_from(content).context("reading an IPv4 address")?).to_string()),
        28 => Ok(IpAddr::from(<[u8; 16]>::try_from(content).context("reading an IPv6 address")?).to_string()),
        5 | 12 => Ok(read_name(answer, start)?.0),
        other => bail!("a record of type {other} was not asked for"),
    }
}

/// A name and where what follows it begins. Follows pointers (RFC 1035, 4.1.4).
fn read_name(message: &[u8], start: usize) -> Result<(String, usize)> {
    let mut labels = Vec::new();
    let (mut at, mut end, mut jumps) = (start, None, 0);
    loop {
        let length = usize::from(*message.get(at).context("a name is cut off")?);
        if length & 0xc0 == 0xc0 {
            let low = usize::from(*message.get(at + 1).context("a pointer is cut off")?);
            end = end.or(Some(at + 2));
            at = (length & 0x3f) << 8 | low;
            jumps += 1;
            ensure!(jumps < 16, "a name's pointers go round in circles");
            continue;
        }
        if length == 0 {
            return Ok((labels.join("."), end.unwrap_or(at + 1)));
        }
        let label = message.get(at + 1..at + 1 + length).context("a label is cut off")?;
        labels.push(String::from_utf8_lossy(label).into_owned());
        at += 1 + length;
    }
}

/// A server for names outside the cluster, over UDP; dropping it ends it.
#[derive(Debug)]
pub struct DnsServer {
    is_over: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl DnsServer {
    /// Listens at `address`, port 53, in namespace `netns` and answers for `names`; others do not exist.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(netns: &str, address: IpAddr, names: &[(&str, IpAddr)]) -> Result<Self> {
        let name: NetnsName = netns.parse()?;
        let socket = name
            .enter(|| UdpSocket::bind((address, 53)))?
            .with_context(|| format!("listening for DNS at {address} in {netns}"))?;
        socket.set_read_timeout(Some(POLL)).context("setting a receive timeout")?;
        let names: BTreeMap<_, _> = names.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect();
        let (is_over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (over, log) = (Arc::clone(&is_over), Arc::clone(&asked));
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                serve_one(&socket, &names, &log);
            }
        });
        Ok(Self { is_over, asked, thread: Some(thread) })
    }

    /// The names that it has been asked for.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve_one(socket: &UdpSocket, names: &BTreeMap<String, IpAddr>, asked: &Mutex<Vec<String>>) {
    let mut buffer = [0; 1500];
    let Ok((length, client)) = socket.recv_from(&mut buffer) else { return };
    let Ok((name, end)) = read_name(&buffer[..length], HEADER) else { return };
    let Some(question) = buffer.get(..end + 4).filter(|_| end + 4 <= length) else { return };
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
    let answer = reply(question, names.get(&name.to_lowercase()).copied());
    // A client that has gone has no use for it.
    drop(socket.send_to(&answer, client));
}

fn reply(question: &[u8], address: Option<IpAddr>) -> Vec<u8> {
    const RESPONSE: u8 = 0x81;
    const NO_SUCH_NAME: u8 = 3;
    let kind = u16::from_be_bytes([question[question.len() - 4], question[question.len() - 3]]);
    let content = match address {
        Some(IpAddr::V4(address)) if kind == Record::A.number() => address.octets().to_vec(),
        Some(IpAddr::V6(address)) if kind == Record::Aaaa.number() => address.octets().to_vec(),
        _ => Vec::new(),
    };
    let mut message = question.to_vec();
    let code = if address.is_none() { NO_SUCH_NAME } else { 0 };
    message[2..4].copy_from_slice(&[RESPONSE, 0x80 | code]);
    message[4..HEADER].copy_from_slice(&[0, 1, 0, u8::from(!content.is_empty()), 0, 0, 0, 0]);
    if let Ok(length @ 1..) = u8::try_from(content.len()) {
        // The name is the question's, at offset 12.
        message.extend_from_slice(&[0xc0, 12]);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&[0, 1, 0, 0, 0, 60, 0, length]);
        message.extend_from_slice(&content);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_reads_what_the_server_writes() {
        let question = question("www.example.", Record::A).unwrap();

        let found = parse(&reply(&question, Some(IpAddr::from([192, 0, 2, 7]))), &question).unwrap();
        let absent = parse(&reply(&question, None), &question).unwrap();

        assert_eq!(found, Answer { code: 0, values: vec!["192.0.2.7".to_owned()], ttl: Some(60) });
        assert_eq!(absent, Answer { code: 3, values: Vec::new(), ttl: None });
    }

    #[test]
    fn reverse_names_are_those_of_the_standard() {
        assert_eq!(reverse_name(IpAddr::from([192, 0, 2, 7])), "7.2.0.192.in-addr.arpa");
        let v6 = reverse_name("2001:db8::1".parse().unwrap());
        assert!(v6.starts_with("1.0.0.0.") && v6.ends_with("8.b.d.0.1.0.0.2.ip6.arpa"), "{v6}");
    }
}
