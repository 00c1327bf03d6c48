//! Notifications of the kernel, turned into doubts about what is believed of it.
//!
//! One thread listens in both namespaces: devices, rows, addresses, routes, rules, forwarding, nftables. A doubt never
//! makes anything happen by itself, it says what to compare or to read again. Doubts are kept together by object until
//! somebody takes them, so their number is bounded and only the latest content counts. Settings of single devices send no
//! notification; the audit finds those.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, PipeReader, PipeWriter},
    mem,
    os::fd::{AsFd, AsRawFd},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, setsockopt, sockopt},
};
use rtnetlink::sys;
use thiserror::Error;
use tokio::sync::Notify;
use weft_overlay::{
    id::NetworkId,
    kernel::{Object, ObjectId, ObserveError, Table},
};

use self::interpret::{Interpreter, Source};
use super::{
    Places,
    netlink::{Channel, Messages},
    objects::Devices,
    observe::list_links,
};
use crate::netns::{Namespace, NetnsError};

mod interpret;

/// Asked for with SO_RCVBUFFORCE; a notification takes about 1 KiB of it.
const RECEIVE_BUFFER: usize = 16 * 1024 * 1024;
/// Notifications handled between two looks at the other sockets.
const BURST: usize = 512;
/// So many single objects are told apart; more become doubts about their networks.
const OBJECTS: usize = 16 * 1024;

/// Why the kernel cannot be watched.
#[derive(Debug, Error)]
pub enum WatchError {
    /// A namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    /// A socket for notifications could not be opened.
    #[error("opening a socket for notifications in {namespace}")]
    Socket {
        /// Where.
        namespace: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The devices could not be listed.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// No thread could be made.
    #[error("making the thread that watches the kernel")]
    Thread {
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
}

/// Something that may not be as it is believed to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// Notifications were lost: read everything.
    Everything,
    /// The host's addresses, routes or devices changed, other than ours: the underlay's MTU and source may have.
    Host,
    /// A VXLAN device that is not ours has left the host's namespace: what it was in the way of may be possible now.
    Obstruction,
    /// Somebody else committed an nftables transaction in the namespace of this table of ours.
    Firewall(Table),
    /// A change to a device took other things of this network along: read the network.
    Network(NetworkId),
    /// One object changed.
    Object(ObjectId, Report),
}

/// What a notification says about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// It is like this now. Equal to what is believed: the echo of a write.
    Is(Object),
    /// It is not there now.
    Absent,
    /// It changed, and how it is now must be read.
    Changed,
}

/// Doubts that have come together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Doubts {
    /// See [`Doubt::Everything`].
    pub everything: bool,
    /// See [`Doubt::Host`].
    pub host: bool,
    /// See [`Doubt::Obstruction`].
    pub obstruction: bool,
    /// See [`Doubt::Firewall`].
    pub firewall: BTreeSet<Table>,
    /// See [`Doubt::Network`].
    pub networks: BTreeSet<NetworkId>,
    /// See [`Doubt::Object`]: the latest report about each.
    pub objects: BTreeMap<ObjectId, Report>,
}

impl Doubts {
    /// Whether there is nothing to doubt.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds a doubt. What is covered by a wider one already stays covered.
    pub fn insert(&mut self, doubt: Doubt) {
        match doubt {
            Doubt::Everything => self.everything = true,
            Doubt::Host => self.host = true,
            Doubt::Obstruction => self.obstruction = true,
            Doubt::Firewall(table) => drop(self.firewall.insert(table)),
            Doubt::Network(network) => drop(self.networks.insert(network)),
            Doubt::Object(id, report) => {
                self.objects.insert(id, report);
                self.widen();
            }
        }
    }

    fn widen(&mut self) {
        if self.objects.len() > OBJECTS {
            self.networks.extend(self.objects.keys().filter_map(ObjectId::network));
            self.objects.retain(|id, _| id.network().is_none());
        }
    }
}

/// A running watch. Dropping it ends the thread.
#[derive(Debug)]
pub struct KernelWatch {
    shared: Arc<Shared>,
    /// Closed to end the thread.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    doubts: Mutex<Doubts>,
    arrived: Notify,
}

impl KernelWatch {
    /// Begins to watch both namespaces. What happened before is not told, nor what was committed to nftables through the
    /// netlink ports `own`: whoever commits there knows what it has changed.
    ///
    /// # Errors
    /// When a socket cannot be had. nftables is passed over where the kernel lacks it.
    pub fn start(places: &Places, own: BTreeSet<(Table, u32)>) -> Result<Self, WatchError> {
        let mut listener = Listener::open(places, own)?;
        let shared = Arc::new(Shared::default());
        let (stopped, stop) = io::pipe().map_err(|cause| WatchError::Thread { cause })?;
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("kernel-watch".to_owned())
            .spawn(move || listener.run(&stopped, &theirs))
            .map_err(|cause| WatchError::Thread { cause })?;
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Waits until there are doubts, and takes them. Cancel-safe: what is not taken stays.
    pub async fn doubts(&self) -> Doubts {
        loop {
            let arrived = self.shared.arrived.notified();
            let doubts = self.take();
            if !doubts.is_empty() {
                return doubts;
            }
            arrived.await;
        }
    }

    /// Takes what doubts there are.
    pub fn take(&self) -> Doubts {
        mem::take(&mut *self.shared.doubts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for KernelWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that watches the kernel panicked");
        }
    }
}

/// The sockets and what is known about the devices that notifications speak of.
struct Listener {
    sockets: Vec<(Source, sys::Socket)>,
    places: Places,
    interpreter: Interpreter,
    /// Where our own transactions come from. A port is somebody's within one namespace: the process that is told beside it
    /// is a thread's number in the first PID namespace, which says nothing to us.
    own: BTreeSet<(Table, u32)>,
    receive: Vec<u8>,
}

impl Listener {
    fn open(places: &Places, own: BTreeSet<(Table, u32)>) -> Result<Self, WatchError> {
        let mut sockets = vec![
            (Source::Host, open(&places.host, sys::protocols::NETLINK_ROUTE, &Source::HOST_GROUPS)?),
            (Source::DataPlane, open(&places.data_plane, sys::protocols::NETLINK_ROUTE, &Source::DATA_PLANE_GROUPS)?),
        ];
        for (table, namespace) in [(Table::Host, &places.host), (Table::DataPlane, &places.data_plane)] {
            match open(namespace, sys::protocols::NETLINK_NETFILTER, &Source::NFT_GROUPS) {
                Ok(socket) => sockets.push((Source::Nft(table), socket)),
                Err(error) => tracing::warn!(%error, "changes of nftables rules are found by the audit only"),
            }
        }
        // Listed after the groups were joined: nothing is missed, and what is told twice does no harm.
        let interpreter = Interpreter::new(list_devices(places)?);
        Ok(Self { sockets, places: places.clone(), interpreter, own, receive: vec![0; 64 * 1024] })
    }

    fn run(&mut self, stopped: &PipeReader, shared: &Shared) {
        while let Some(ready) = self.wait(stopped) {
            let mut doubts = Vec::new();
            for socket in ready {
                doubts.extend(self.drain(socket));
            }
            if doubts.is_empty() {
                continue;
            }
            let mut pending = shared.doubts.lock().unwrap_or_else(PoisonError::into_inner);
            doubts.into_iter().for_each(|doubt| pending.insert(doubt));
            drop(pending);
            shared.arrived.notify_one();
        }
    }

    /// The sockets that have something, or nothing at the end.
    fn wait(&self, stopped: &PipeReader) -> Option<Vec<usize>> {
        let sockets = self.sockets.iter().map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        let mut polled: Vec<PollFd<'_>> = sockets.chain([PollFd::new(stopped.as_fd(), PollFlags::POLLIN)]).collect();
        loop {
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    tracing::error!(%errno, "polling for notifications of the kernel");
                    return None;
                }
            }
        }
        let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        if polled.pop().is_none_or(|stop| ready(&stop)) {
            return None;
        }
        Some(polled.iter().enumerate().filter(|(_, fd)| ready(fd)).map(|(at, _)| at).collect())
    }

    fn drain(&mut self, at: usize) -> Vec<Doubt> {
        let mut doubts = Vec::new();
        for _ in 0..BURST {
            let (source, socket) = &self.sockets[at];
            match recv(socket.as_raw_fd(), &mut self.receive, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    for message in Messages(&self.receive[..length]) {
                        if matches!(source, Source::Nft(table) if self.own.contains(&(*table, message.port))) {
                            continue;
                        }
                        doubts.extend(self.interpreter.interpret(*source, message.kind, message.payload));
                    }
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                // ENOBUFS: some were lost, including perhaps those about devices.
                Err(errno) => {
                    tracing::warn!(%errno, "notifications of the kernel were lost");
                    doubts.push(Doubt::Everything);
                    self.relist();
                    if errno != Errno::ENOBUFS {
                        break;
                    }
                }
            }
        }
        doubts
    }

    fn relist(&mut self) {
        match list_devices(&self.places) {
            Ok(devices) => self.interpreter = Interpreter::new(devices),
            Err(error) => tracing::warn!(%error, "devices not listed again"),
        }
    }
}

fn list_devices(places: &Places) -> Result<Devices, ObserveError> {
    let data_plane = list_links(&mut Channel::new(places.data_plane.clone()))?;
    Ok(Devices::new(data_plane, list_links(&mut Channel::new(places.host.clone()))?))
}

fn open(namespace: &Namespace, protocol: isize, groups: &[u32]) -> Result<sys::Socket, WatchError> {
    let join = || -> io::Result<sys::Socket> {
        let mut socket = sys::Socket::new(protocol)?;
        socket.bind_auto()?;
        groups.iter().try_for_each(|group| socket.add_membership(*group))?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
        Ok(socket)
    };
    namespace.run(join)?.map_err(|cause| WatchError::Socket { namespace: namespace.label().to_owned(), cause })
}

#[cfg(test)]
mod tests;
