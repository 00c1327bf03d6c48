//! Datagrams: one reader; answers from the table go out before the next packet is read, the others when they come.

use std::{net::SocketAddr, sync::Arc};

use tokio::{net::UdpSocket, task::JoinSet};
use tracing::debug;

use super::{BREATH, Listener, MAX_QUESTION, note_client_error};
use crate::names::answer::Response;

/// Serves until it is aborted, which ends the questions under way too.
pub(super) async fn serve(socket: UdpSocket, listener: Listener) {
    let socket = Arc::new(socket);
    let mut forwards = JoinSet::new();
    let mut buffer = vec![0; MAX_QUESTION];
    loop {
        // Both are cancel-safe: a packet that was not taken stays in the socket, a finished task in the set.
        tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok((length, client)) => {
                    take(&socket, &listener, &mut forwards, (&buffer[..length], client)).await;
                }
                Err(error) => {
                    debug!(audience = ?listener.audience, %error, "cannot receive");
                    tokio::time::sleep(BREATH).await;
                }
            },
            Some(_) = forwards.join_next() => {}
        }
    }
}

async fn take(
    socket: &Arc<UdpSocket>,
    listener: &Listener,
    forwards: &mut JoinSet<()>,
    (packet, client): (&[u8], SocketAddr),
) {
    let forwarded = match listener.respond(packet, client) {
        Response::Ignore => return,
        Response::Send(reply) => return send(socket, &reply, client).await,
        Response::Forward(forwarded) => forwarded,
    };
    let Some(permit) = listener.forwards.admit(client.ip()) else {
        return send(socket, &forwarded.failed(), client).await;
    };
    let (socket, listener, packet) = (Arc::clone(socket), listener.clone(), packet.to_vec());
    forwards.spawn(async move {
        if let Some(reply) = listener.forward(&packet, &forwarded).await {
            send(&socket, &reply, client).await;
        }
        drop(permit);
    });
}

async fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(reply, client).await {
        note_client_error(client, &error);
    }
}
