//! Packets: servers that tell their clients' address, clients with a deadline, frames by hand, and captures.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use weft_overlay::id::Mac;

use crate::{
    packets::{BROADCAST, Ethernet},
    world::{open, run, succeeds},
};

/// How long to wait for what should come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait for an answer that must not come. A positive test of the same path shows that it would have.
pub(crate) const IMPATIENCE: Duration = Duration::from_millis(400);

/// A TCP server on all addresses of a namespace that tells each client its address.
pub(crate) struct Server {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(namespace: &str, port: u16) -> Self {
        let listener = open(namespace).run(|| TcpListener::bind(("::", port))).expect("entering").expect("listening");
        listener.set_nonblocking(true).expect("a socket option");
        let ends = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let ends = Arc::clone(&ends);
            move || {
                while !ends.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((mut client, from)) => {
                            drop(client.write_all(from.ip().to_canonical().to_string().as_bytes()))
                        }
                        // Polling a socket, not a synchronisation between tests.
                        Err(_) => thread::sleep(Duration::from_millis(2)),
                    }
                }
            }
        });
        Self { ends, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Connects and returns the address that the server saw, or nothing when there was no answer in time.
pub(crate) fn fetch_within(namespace: &str, to: (IpAddr, u16), patience: Duration) -> Option<IpAddr> {
    let work = || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from(to), patience).ok()?;
        stream.set_read_timeout(Some(patience)).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.parse().ok()
    };
    open(namespace).run(work).expect("entering")
}

/// The same, for what should be answered.
pub(crate) fn fetch(namespace: &str, to: (IpAddr, u16)) -> Option<IpAddr> {
    fetch_within(namespace, to, PATIENCE)
}

/// Whether a connection is refused an answer.
pub(crate) fn is_cut(namespace: &str, to: (IpAddr, u16)) -> bool {
    fetch_within(namespace, to, IMPATIENCE).is_none()
}

/// Whether an address answers within some seconds.
pub(crate) fn answers_ping(namespace: &str, to: IpAddr) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if succeeds(namespace, &format!("ping -n -c1 -W1 {to}")) {
            return true;
        }
    }
    false
}

/// Whether an address does not answer three pings.
pub(crate) fn ignores_ping(namespace: &str, to: IpAddr) -> bool {
    !succeeds(namespace, &format!("ping -n -c3 -i0.1 -W1 {to}"))
}

/// Sends one UDP datagram.
pub(crate) fn send_udp(namespace: &str, from_port: u16, to: (IpAddr, u16), payload: &[u8]) {
    let any = if to.0.is_ipv4() { "0.0.0.0" } else { "::" };
    let work = || UdpSocket::bind((any, from_port)).and_then(|socket| socket.send_to(payload, SocketAddr::from(to)));
    let sent = open(namespace).run(work).expect("entering").expect("sending");
    assert_eq!(sent, payload.len());
}

/// A VXLAN header for a VNI, and a frame.
pub(crate) fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let mut bytes = vec![8, 0, 0, 0];
    bytes.extend((vni << 8).to_be_bytes());
    bytes.extend(frame);
    bytes
}

/// A broadcast frame of an experimental ethertype that carries a text.
pub(crate) fn marked(text: &str) -> Vec<u8> {
    Ethernet { to: BROADCAST, from: [2, 0, 0, 0, 0, 0x66] }.frame(0x88b5, text.as_bytes())
}

/// Sends frames as they are, from an interface of a namespace.
pub(crate) fn send_frames(namespace: &str, interface: &str, frames: &[Vec<u8>]) {
    let hex: Vec<String> = frames.iter().map(|frame| hex(frame)).collect();
    let program = "import socket,sys\n\
                   s=socket.socket(17,3,0)\n\
                   s.bind((sys.argv[1],0))\n\
                   for f in sys.argv[2:]: s.send(bytes.fromhex(f))";
    let status = python(namespace).args(["-c", program, interface]).args(hex).status().expect("python3 runs");
    assert!(status.success(), "sending frames from {interface} of {namespace}");
}

/// One frame, sent as fast as it goes until this is dropped.
pub(crate) struct Flood {
    child: Child,
    namespace: String,
    interface: String,
}

impl Flood {
    pub(crate) fn start(namespace: &str, interface: &str, frame: &[u8]) -> Self {
        let program = "import socket,sys\n\
                       s=socket.socket(17,3,0)\n\
                       s.bind((sys.argv[1],0))\n\
                       f=bytes.fromhex(sys.argv[2])\n\
                       while True: s.send(f)";
        let child = python(namespace).args(["-c", program, interface, &hex(frame)]).spawn().expect("python3 runs");
        Self { child, namespace: namespace.to_owned(), interface: interface.to_owned() }
    }

    /// How many frames the interface has sent.
    pub(crate) fn sent(&self) -> u64 {
        let text = run(&self.namespace, &format!("cat /sys/class/net/{}/statistics/tx_packets", self.interface));
        text.trim().parse().expect("a number")
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The Ethernet address of an interface.
pub(crate) fn mac_of(namespace: &str, interface: &str) -> [u8; 6] {
    let text = run(namespace, &format!("cat /sys/class/net/{interface}/address"));
    text.trim().parse::<Mac>().expect("an address").octets()
}

/// A UDP server that tells each client its address and port.
pub(crate) struct UdpServer {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpServer {
    pub(crate) fn start(namespace: &str, address: (&'static str, u16)) -> Self {
        let socket = open(namespace).run(|| UdpSocket::bind(address)).expect("entering").expect("binding");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket option");
        let ends = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let ends = Arc::clone(&ends);
            move || {
                let mut buffer = [0; 64];
                while !ends.load(Ordering::Relaxed) {
                    if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                        drop(socket.send_to(from.to_string().as_bytes(), from));
                    }
                }
            }
        });
        Self { ends, thread: Some(thread) }
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Sends a datagram from a port (0: any) and returns the address and port that the server saw.
pub(crate) fn fetch_udp(namespace: &str, from_port: u16, to: (IpAddr, u16), patience: Duration) -> Option<SocketAddr> {
    let work = || {
        let socket = bind(if to.0.is_ipv4() { "0.0.0.0" } else { "::" }, from_port);
        socket.set_read_timeout(Some(patience)).expect("a socket option");
        socket.send_to(b"?", SocketAddr::from(to)).ok()?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).ok()?;
        std::str::from_utf8(&buffer[..length]).ok()?.parse().ok()
    };
    open(namespace).run(work).expect("entering")
}

/// Binds a port that an earlier socket had. A process that another test is just starting may still hold a copy of that one.
fn bind(address: &str, port: u16) -> UdpSocket {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UdpSocket::bind((address, port)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => thread::yield_now(),
            bound => return bound.expect("binding"),
        }
    }
}

/// Frames that arrive at an interface, from the moment that the capture exists.
pub(crate) struct Capture {
    child: Child,
    frames: Receiver<Vec<u8>>,
    seen: Vec<Vec<u8>>,
}

impl Capture {
    pub(crate) fn start(namespace: &str, interface: &str) -> Self {
        let program = "import socket,sys\n\
                       s=socket.socket(17,3,socket.htons(3))\n\
                       s.bind((sys.argv[1],3))\n\
                       print('ready',flush=True)\n\
                       while True:\n\
                       \x20f,a=s.recvfrom(65536)\n\
                       \x20if a[2]!=4: print(f.hex(),flush=True)";
        let mut child =
            python(namespace).args(["-c", program, interface]).stdout(Stdio::piped()).spawn().expect("python3 runs");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let first = lines.next().expect("a line").expect("text");
        assert_eq!(first, "ready");
        // In a storm the reader waits, and the kernel drops.
        let (sender, frames) = sync_channel(4096);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(unhex(&line)).is_err() {
                    return;
                }
            }
        });
        Self { child, frames, seen: Vec::new() }
    }

    /// Waits for a frame that contains `needle`.
    pub(crate) fn waits_for(&mut self, needle: &[u8]) -> bool {
        self.waits_for_within(needle, PATIENCE)
    }

    /// The same, with a deadline of one's own.
    pub(crate) fn waits_for_within(&mut self, needle: &[u8], patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut found = self.seen(needle);
        while !found {
            match self.frames.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(frame) => {
                    found = contains(&frame, needle);
                    self.seen.push(frame);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
            }
        }
        true
    }

    /// How many frames come until a deadline that contain `needle`, as far as they are fewer than `enough`.
    pub(crate) fn counts(&mut self, needle: &[u8], enough: usize, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        let mut count = self.seen.iter().filter(|frame| contains(frame, needle)).count();
        while count < enough {
            match self.frames.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(frame) => count += usize::from(contains(&frame, needle)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        count
    }

    /// Whether a frame that contains `needle` has come so far.
    pub(crate) fn seen(&self, needle: &[u8]) -> bool {
        self.seen.iter().any(|frame| contains(frame, needle))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn contains(frame: &[u8], needle: &[u8]) -> bool {
    frame.windows(needle.len()).any(|window| window == needle)
}

fn python(namespace: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, "/usr/bin/python3"]);
    command
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hexadecimal")).collect()
}
