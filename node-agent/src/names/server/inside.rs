//! Answering names inside a container's own network namespace, in front of the resolver that its engine gave it.
//!
//! Docker points a container at 127.0.0.11, where its own resolver listens. A redirection in the namespace leads those
//! questions here first: what is ours is answered, everything else goes on to that resolver unchanged, with a mark that
//! the redirection lets pass. It belongs to a socket of ours, so that the container is back on Docker's resolver in the
//! moment that this process ends (nf_tables, NFT_TABLE_F_OWNER).

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpSocket, UdpSocket},
    task::JoinHandle,
    time::timeout,
};
use tracing::debug;
use weft_overlay::id::NetworkId;

use super::{Audience, BACKLOG, Listener, NameServer, Shared, quota::Quota, tcp, udp};
use crate::{
    firewall::redirect::{MARK, Redirect},
    names::{
        answer::{Forwarded, Transport},
        stream, wire,
    },
    netns::Namespace,
};

/// Where Docker's resolver is in every container with a network of the user's.
const ENGINE_RESOLVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 53);
/// Docker's resolver asks up to three servers, four seconds each.
const PATIENCE: Duration = Duration::from_secs(14);
/// A reply may be this large whatever the client announced; it is cut before it is passed on.
const REPLY_ROOM: usize = 65_535;

/// What a container sees.
#[derive(Debug)]
pub(super) struct Container {
    namespace: Namespace,
    networks: RwLock<Vec<NetworkId>>,
}

/// Makes servers inside containers.
#[derive(Debug, Clone)]
pub(crate) struct Insider {
    shared: Arc<Shared>,
}

/// Answers inside one namespace until it is dropped.
#[derive(Debug)]
pub(crate) struct InsideServer {
    container: Arc<Container>,
    tasks: [JoinHandle<()>; 2],
    _redirect: Redirect,
}

impl NameServer {
    /// What makes servers inside containers that answer from the same table.
    pub(crate) fn insider(&self) -> Insider {
        Insider { shared: Arc::clone(&self.shared) }
    }
}

impl Insider {
    /// Begins to answer in a namespace. Must run within a tokio runtime.
    ///
    /// # Errors
    /// When no socket can be made there, or the kernel refuses the redirection: it needs Linux 5.12 and nf_tables.
    pub(crate) fn serve(&self, namespace: &Namespace, networks: Vec<NetworkId>) -> io::Result<InsideServer> {
        let opened = namespace.run(|| -> io::Result<_> {
            let (udp, tcp) = (bind(Transport::Udp)?, bind(Transport::Tcp)?);
            let redirect = Redirect::install(*ENGINE_RESOLVER.ip(), port_of(&udp)?, port_of(&tcp)?)?;
            Ok((udp, tcp, redirect))
        });
        let (udp_socket, tcp_socket, redirect) = opened.map_err(io::Error::other)??;
        let container = Arc::new(Container { namespace: namespace.clone(), networks: RwLock::new(networks) });
        let listener = |transport| Listener {
            shared: Arc::clone(&self.shared),
            audience: Audience::Container(Arc::clone(&container)),
            transport,
            forwards: Quota::new(self.shared.options.forwards),
        };
        let udp_task = udp::serve(UdpSocket::from_std(udp_socket.into())?, listener(Transport::Udp));
        let tcp_task = tcp::serve(TcpListener::from_std(tcp_socket.into())?, listener(Transport::Tcp));
        Ok(InsideServer { container, tasks: [tokio::spawn(udp_task), tokio::spawn(tcp_task)], _redirect: redirect })
    }
}

impl InsideServer {
    /// Sets which networks the container is in.
    pub(crate) fn set_networks(&self, networks: Vec<NetworkId>) {
        *self.container.networks.write().unwrap_or_else(PoisonError::into_inner) = networks;
    }
}

impl Drop for InsideServer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Container {
    pub(super) fn networks(&self) -> Vec<NetworkId> {
        self.networks.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the engine's resolver under an id of our own; `None` when it does not answer.
    pub(super) async fn forward(&self, packet: &[u8], forwarded: &Forwarded) -> Option<Vec<u8>> {
        let asked = async {
            match forwarded.transport() {
                Transport::Udp => self.ask_udp(packet, forwarded).await,
                Transport::Tcp => self.ask_tcp(packet, forwarded).await,
            }
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(mut reply)) => {
                wire::set_id(&mut reply, forwarded.query().metadata.id);
                Some(forwarded.answered(reply))
            }
            Ok(Err(error)) => {
                debug!(netns = self.namespace.label(), %error, "the engine's resolver gave no answer");
                None
            }
            Err(_) => None,
        }
    }

    async fn ask_udp(&self, packet: &[u8], forwarded: &Forwarded) -> io::Result<Vec<u8>> {
        let socket = self.namespace.run(|| marked(Transport::Udp)).map_err(io::Error::other)??;
        let socket = UdpSocket::from_std(socket.into())?;
        socket.connect(ENGINE_RESOLVER).await?;
        let (packet, id, question) = disguised(packet, forwarded)?;
        socket.send(&packet).await?;
        let mut buffer = vec![0; REPLY_ROOM];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if wire::belongs(&buffer[..length], id, question) {
                buffer.truncate(length);
                return Ok(buffer);
            }
        }
    }

    async fn ask_tcp(&self, packet: &[u8], forwarded: &Forwarded) -> io::Result<Vec<u8>> {
        let socket = self.namespace.run(|| marked(Transport::Tcp)).map_err(io::Error::other)??;
        let mut connection = TcpSocket::from_std_stream(socket.into()).connect(ENGINE_RESOLVER.into()).await?;
        let (packet, id, question) = disguised(packet, forwarded)?;
        stream::write(&mut connection, &packet).await?;
        let reply = stream::read(&mut connection, REPLY_ROOM).await?;
        if wire::belongs(&reply, id, question) { Ok(reply) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

/// The packet under a random id, that id, and the question.
fn disguised<'a>(packet: &[u8], forwarded: &'a Forwarded) -> io::Result<(Vec<u8>, u16, &'a hickory_proto::op::Query)> {
    let [question] = forwarded.query().queries.as_slice() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let id = rand::random();
    let mut packet = packet.to_vec();
    wire::set_id(&mut packet, id);
    Ok((packet, id, question))
}

/// A socket at any port: port 53 belongs to the container, which may be a name server itself.
fn bind(transport: Transport) -> io::Result<Socket> {
    let socket = new_socket(transport)?;
    // The loopback interface may not be up yet.
    socket.set_freebind_v4(true)?;
    socket.bind(&SocketAddr::from((*ENGINE_RESOLVER.ip(), 0)).into())?;
    if transport == Transport::Tcp {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

fn marked(transport: Transport) -> io::Result<Socket> {
    let socket = new_socket(transport)?;
    socket.set_mark(MARK)?;
    Ok(socket)
}

fn new_socket(transport: Transport) -> io::Result<Socket> {
    let (kind, protocol) = match transport {
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
    };
    Socket::new(Domain::IPV4, kind.nonblocking(), Some(protocol))
}

fn port_of(socket: &Socket) -> io::Result<u16> {
    let address = socket.local_addr()?;
    address.as_socket_ipv4().map(|v4| v4.port()).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}
