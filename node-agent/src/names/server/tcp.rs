//! Connections: each a task; replies go out in the order in which they are ready (RFC 7766, 6.2.1.1).

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Mutex,
    task::JoinSet,
    time::timeout,
};
use tracing::debug;

use super::{BREATH, Listener, MAX_QUESTION, note_client_error, quota::Quota};
use crate::names::{answer::Response, stream};

/// Serves until it is aborted, which ends the connections too.
pub(super) async fn serve(socket: TcpListener, listener: Listener) {
    let open = Quota::new(listener.shared.options.connections);
    let mut connections = JoinSet::new();
    loop {
        // Both are cancel-safe: a connection that was not taken stays in the backlog, a finished task in the set.
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((connection, client)) => {
                    // Beyond its share a client is cut off: it holds on to connections that others need.
                    if let Some(permit) = open.admit(client.ip()) {
                        let listener = listener.clone();
                        connections.spawn(async move {
                            if let Err(error) = converse(connection, client, &listener).await {
                                note_client_error(client, &error);
                            }
                            drop(permit);
                        });
                    }
                }
                Err(error) => {
                    debug!(audience = ?listener.audience, %error, "cannot accept");
                    tokio::time::sleep(BREATH).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

type Writer = Arc<Mutex<OwnedWriteHalf>>;

async fn converse(connection: TcpStream, client: SocketAddr, listener: &Listener) -> io::Result<()> {
    let (mut reader, writer) = connection.into_split();
    let writer = Arc::new(Mutex::new(writer));
    let mut forwards = JoinSet::new();
    let idle = listener.shared.options.idle;
    while let Some(packet) = next(&mut reader, idle).await? {
        match listener.respond(&packet, client) {
            Response::Ignore => break,
            Response::Send(reply) => write(&writer, &reply, idle).await?,
            Response::Forward(forwarded) => match listener.forwards.admit(client.ip()) {
                None => write(&writer, &forwarded.failed(), idle).await?,
                Some(permit) => {
                    let (writer, listener) = (Arc::clone(&writer), listener.clone());
                    forwards.spawn(async move {
                        let written = match listener.forward(&packet, &forwarded).await {
                            Some(reply) => write(&writer, &reply, idle).await,
                            None => Ok(()),
                        };
                        drop(permit);
                        written
                    });
                }
            },
        }
        while forwards.try_join_next().is_some() {}
    }
    // A client may close its half after the last question and still read the answers.
    while forwards.join_next().await.is_some() {}
    Ok(())
}

/// The next question; `None` when the client is done or silent for too long.
async fn next(reader: &mut OwnedReadHalf, idle: Duration) -> io::Result<Option<Vec<u8>>> {
    match timeout(idle, stream::read(reader, MAX_QUESTION)).await {
        Err(_) => Ok(None),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Ok(read) => read.map(Some),
    }
}

/// Writes one reply; a connection that took only a part of it is of no further use, and is closed for all writers.
async fn write(writer: &Writer, reply: &[u8], idle: Duration) -> io::Result<()> {
    let mut writer = writer.lock().await;
    let written = timeout(idle, stream::write(&mut *writer, reply)).await.unwrap_or_else(|late| Err(late.into()));
    if written.is_err() {
        writer.shutdown().await?;
    }
    written
}
