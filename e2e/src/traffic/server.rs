//! Servers that tell each client who they are and from which address they see it, and their clients.
//!
//! They stand for whatever people run in containers: what matters is that they are reached, and which source
//! address has come through.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::NetnsName;

/// How often a server looks whether it is to end.
const POLL: Duration = Duration::from_millis(20);
/// How long a connected client may stay silent.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests that [`ask_udp`] sends before it gives up: datagrams may be lost.
const UDP_ATTEMPTS: u32 = 4;

/// A TCP server; dropping it ends it.
#[derive(Debug)]
pub struct TcpServer {
    running: Running,
}

/// A UDP server; dropping it ends it.
#[derive(Debug)]
pub struct UdpServer {
    running: Running,
}

#[derive(Debug)]
struct Running {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    address: SocketAddr,
}

impl TcpServer {
    /// Listens in namespace `netns` at `address`; port 0 takes a free one. Each client is answered with
    /// `NETNS CLIENT-ADDRESS`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(netns: &str, address: SocketAddr) -> Result<Self> {
        let name: NetnsName = netns.parse()?;
        let listener =
            name.enter(|| TcpListener::bind(address))?.with_context(|| format!("listening at {address} in {netns}"))?;
        listener.set_nonblocking(true).context("making a listener non-blocking")?;
        let bound = listener.local_addr().context("reading an address")?;
        let running = Running::start(bound, move || match listener.accept() {
            // A client that goes away early is its own matter.
            Ok((stream, client)) => drop(answer(stream, &greeting(&name, client))),
            Err(_) => thread::sleep(POLL),
        });
        Ok(Self { running })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.running.address
    }
}

impl UdpServer {
    /// Listens in namespace `netns` at `address`; otherwise as [`TcpServer::start`].
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(netns: &str, address: SocketAddr) -> Result<Self> {
        let name: NetnsName = netns.parse()?;
        let socket =
            name.enter(|| UdpSocket::bind(address))?.with_context(|| format!("listening at {address} in {netns}"))?;
        socket.set_read_timeout(Some(POLL)).context("setting a receive timeout")?;
        let bound = socket.local_addr().context("reading an address")?;
        let running = Running::start(bound, move || {
            let mut buffer = [0; 64];
            if let Ok((_, client)) = socket.recv_from(&mut buffer) {
                // An answer that cannot be sent shows at the client.
                drop(socket.send_to(greeting(&name, client).as_bytes(), client));
            }
        });
        Ok(Self { running })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.running.address
    }
}

impl Running {
    fn start(address: SocketAddr, mut serve_one: impl FnMut() + Send + 'static) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                serve_one();
            }
        });
        Self { is_over, thread: Some(thread), address }
    }
}

impl Drop for Running {
    /// The socket is closed when this returns, so that its port can be used again.
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Connects from namespace `from` to `target` and reads its greeting.
///
/// # Errors
/// When there is no connection or no greeting within `deadline`.
pub fn ask_tcp(from: &str, target: SocketAddr, deadline: Duration) -> Result<Greeting> {
    let from: NetnsName = from.parse()?;
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&target, deadline)?;
        stream.set_read_timeout(Some(deadline))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = from.enter(ask)?.with_context(|| format!("asking {target} by TCP from {from}"))?;
    Greeting::parse(&text)
}

/// Sends datagrams from namespace `from` to `target` until one is answered.
///
/// # Errors
/// When none is within `deadline`.
pub fn ask_udp(from: &str, target: SocketAddr, deadline: Duration) -> Result<Greeting> {
    let from: NetnsName = from.parse()?;
    let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let ask = || -> io::Result<String> {
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(deadline / UDP_ATTEMPTS))?;
        socket.connect(target)?;
        let mut buffer = [0; 128];
        let mut attempt = 1;
        loop {
            socket.send(b"?")?;
            match socket.recv(&mut buffer) {
                Ok(length) => return Ok(String::from_utf8_lossy(&buffer[..length]).into_owned()),
                Err(error) if attempt == UDP_ATTEMPTS => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    };
    let text = from.enter(ask)?.with_context(|| format!("asking {target} by UDP from {from}"))?;
    Greeting::parse(&text)
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// The server's namespace.
    pub server: String,
    /// The client's address, as the server sees it.
    pub client: IpAddr,
}

impl Greeting {
    fn parse(text: &str) -> Result<Self> {
        let (server, client) = text.split_once(' ').with_context(|| format!("reading a greeting from {text:?}"))?;
        let client: IpAddr = client.parse().with_context(|| format!("reading a client's address from {text:?}"))?;
        Ok(Self { server: server.to_owned(), client: client.to_canonical() })
    }
}

fn greeting(netns: &NetnsName, client: SocketAddr) -> String {
    format!("{netns} {}", client.ip())
}

fn answer(mut stream: TcpStream, greeting: &str) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    stream.write_all(greeting.as_bytes())
}
