//! Lists of many keys: sent as they are read, as of one revision, however slow the reader is.

use std::{fs, time::Duration};

use bytes::Bytes;
use etcd_client::{
    DeleteOptions, Txn, TxnOp,
    proto::{PbRangeRequest, PbRangeResponse},
};
use h2::RecvStream;
use prost::Message;
use tokio::{net::TcpStream, time::timeout};

use crate::servers::{Server, scratch};

const KEYS: usize = 10_000;
const VALUE_BYTES: usize = 1000;
const READERS: usize = 20;
const DEADLINE: Duration = Duration::from_secs(20);

/// Asks for every key, on a connection of its own, and takes no more of the answer than HTTP/2 sends unasked: 64 KiB.
async fn ask(server: &Server) -> RecvStream {
    let stream = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("{}/etcdserverpb.KV/Range", server.url))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, mut body) = sender.send_request(request, false).unwrap();
    let message = PbRangeRequest { key: vec![b'k'], range_end: vec![b'l'], ..PbRangeRequest::default() };
    let message = message.encode_to_vec();
    let prefix = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes()].concat();
    body.send_data(Bytes::from([prefix, message].concat()), true).unwrap();
    response.await.unwrap().into_body()
}

/// The rest of the answer.
async fn read(mut body: RecvStream) -> PbRangeResponse {
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend(piece);
    }
    let trailers = body.trailers().await.unwrap().expect("an answer of gRPC ends with trailers");
    assert_eq!(trailers["grpc-status"], "0");
    PbRangeResponse::decode(&bytes[5..]).unwrap()
}

/// Bytes that the server has in memory, without mapped files.
fn memory(server: &Server) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_of_lists_hold_up_nobody_and_cost_little() {
    let directory = scratch();
    let server = Server::ours(directory.path(), None);
    let mut client = server.client().await;
    for first in (0..KEYS).step_by(100) {
        let put = |number| TxnOp::put(format!("k{number:05}"), vec![b'x'; VALUE_BYTES], None);
        client.txn(Txn::new().and_then((first..first + 100).map(put).collect::<Vec<_>>())).await.unwrap();
    }
    let revision = client.get("k", None).await.unwrap().header().unwrap().revision();
    let before = memory(&server);

    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(ask(&server).await);
    }
    let grown = memory(&server).saturating_sub(before);
    let writing = async {
        client.put("k00000", "changed", None).await.unwrap();
        let gone = client.delete("k", Some(DeleteOptions::new().with_prefix())).await.unwrap();
        client.compact(revision + 2, None).await.unwrap();
        gone.deleted()
    };
    let deleted = timeout(DEADLINE, writing).await.expect("nobody is held up");

    assert_eq!(usize::try_from(deleted).unwrap(), KEYS);
    assert!(grown < READERS * KEYS * VALUE_BYTES / 4, "{READERS} readers cost {grown} bytes");
    for reader in readers {
        let list = timeout(DEADLINE, read(reader)).await.expect("a list ends");
        assert_eq!((list.header.unwrap().revision, list.count, list.more), (revision, KEYS as i64, false));
        let expected = (0..KEYS).map(|number| format!("k{number:05}").into_bytes());
        assert!(list.kvs.iter().map(|kv| kv.key.clone()).eq(expected), "{} keys", list.kvs.len());
        assert!(list.kvs.iter().all(|kv| kv.value.len() == VALUE_BYTES && kv.mod_revision <= revision));
    }
}
