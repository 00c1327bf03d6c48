//! One question to one server.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use hickory_proto::op::Query;
use tokio::net::{TcpStream, UdpSocket};

use super::super::{
    answer::{Forwarded, Transport},
    stream, wire,
};

/// A reply to a datagram may be larger than the client announced by this much and is still read whole.
const LEAST_BUFFER: usize = 4096;

/// Asks one server over UDP, and over TCP if the reply is truncated and the client could take a longer one.
///
/// Waits without limit: the caller sets one. Packets that do not belong to the question are passed over.
pub(super) async fn exchange(server: SocketAddr, packet: &[u8], forwarded: &Forwarded) -> io::Result<Vec<u8>> {
    let [question] = forwarded.query().queries.as_slice() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let id = rand::random();
    let mut packet = packet.to_vec();
    wire::set_id(&mut packet, id);
    let room = wire::client_limit(forwarded.query()).max(LEAST_BUFFER);
    let reply = ask_udp(server, &packet, room, |reply| wire::belongs(reply, id, question)).await?;
    if wire::is_truncated(&reply) && forwarded.transport() == Transport::Tcp {
        return ask_tcp(server, &packet, id, question).await;
    }
    Ok(reply)
}

async fn ask_udp(
    server: SocketAddr,
    packet: &[u8],
    room: usize,
    belongs: impl Fn(&[u8]) -> bool,
) -> io::Result<Vec<u8>> {
    let any: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    // Connected, so that only this server's datagrams arrive, and a refused port is an error at once.
    socket.connect(server).await?;
    socket.send(packet).await?;
    let mut buffer = vec![0; room];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if belongs(&buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, packet: &[u8], id: u16, question: &Query) -> io::Result<Vec<u8>> {
    let mut connection = TcpStream::connect(server).await?;
    stream::write(&mut connection, packet).await?;
    let reply = stream::read(&mut connection, usize::from(u16::MAX)).await?;
    if !wire::belongs(&reply, id, question) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(reply)
}
