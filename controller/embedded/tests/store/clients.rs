//! Clients of every kind: etcdctl, those that show certificates, and those that send anything at all.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, PutOptions, TlsOptions, Txn, TxnOp};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Endpoint,
};
use weft_embedded_store::TlsFiles;

use crate::servers::{Ours, Server, scratch};

fn etcdctl(url: &str, words: &[&str]) -> String {
    let endpoint = url.trim_start_matches("http://");
    let output = Command::new("etcdctl").env("ETCDCTL_API", "3").arg("--endpoints").arg(endpoint).args(words).output();
    let output: Output = output.expect("etcdctl is installed (package etcd-client)");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_etcdctl_works_as_with_etcd() {
    let (ours, etcd) = (Ours::start().await, Server::etcd());
    etcd.client().await;
    let script: &[&[&str]] = &[
        &["put", "a", "1"],
        &["put", "b", "2", "--prev-kv"],
        &["get", "--prefix", "", "-w", "fields"],
        &["get", "a", "--rev", "2"],
        &["del", "a", "--prev-kv"],
        &["lease", "grant", "1"],
        &["lease", "timetolive", "7"],
        &["lock", "l", "echo", "locked"],
        &["get", "l", "--prefix", "--count-only"],
        &["compaction", "4"],
        &["get", "b", "--rev", "3"],
        &["alarm", "list"],
    ];
    for words in script {
        // What names the server or is drawn by lot differs.
        let plain = |text: String| -> String {
            let named = ["ClusterID", "MemberID", "RaftTerm", "lease "];
            let kept = |line: &&str| !named.iter().any(|name| line.contains(name)) && !line.starts_with("l/");
            text.lines().filter(kept).map(|line| line.split("rpc error").last().unwrap_or(line)).collect()
        };
        let (expected, found) = (plain(etcdctl(&etcd.url, words)), plain(etcdctl(&ours.url, words)));
        assert_eq!(expected, found, "etcdctl {words:?} (etcd left)");
    }
    for (words, expected) in [
        (&["endpoint", "health"][..], "is healthy"),
        (&["endpoint", "status"], "3.4.23"),
        (&["endpoint", "hashkv"], &ours.url["http://".len()..]),
        (&["member", "list"], "started, weft"),
        (&["lease", "list"], " leases"),
        (&["defrag"], "Finished defragmenting"),
        (&["snapshot", "save", "/dev/null"], "weft store backup"),
    ] {
        let said = etcdctl(&ours.url, words);
        assert!(said.contains(expected), "{words:?}: {said}");
    }
}

/// Certificates of one authority, made by openssl in a directory.
struct Authority<'a>(&'a Path);

impl<'a> Authority<'a> {
    fn new(directory: &'a Path) -> Self {
        let authority = Self(directory);
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 \
             -subj /CN=authority",
        );
        authority
    }

    fn issue(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        std::fs::write(self.0.join("extensions"), "subjectAltName=IP:127.0.0.1").unwrap();
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 \
             -extfile extensions"
        ));
        (self.read(&format!("{name}.pem")), self.read(&format!("{name}.key")))
    }

    fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.0.join(file)).unwrap()
    }

    fn openssl(&self, words: &str) {
        let output = Command::new("openssl").args(words.split_whitespace()).current_dir(self.0).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

async fn client_with(url: &str, authority: &Authority<'_>, name: Option<&str>) -> Client {
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(authority.read("ca.pem")));
    if let Some(name) = name {
        let (certificate, key) = authority.issue(name);
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    Client::connect([url], Some(ConnectOptions::new().with_tls(tls))).await.unwrap()
}

async fn secured(authority: &Authority<'_>) -> Ours {
    let (certificate, key) = authority.issue("server");
    let client_authority = Some(authority.read("ca.pem"));
    Ours::start_with(|options| options.tls = Some(TlsFiles { certificate, key, client_authority })).await
}

fn denied<T>(answer: Result<T, Error>) {
    match answer {
        Err(Error::GRpcStatus(status)) if status.code() == Code::PermissionDenied => {}
        Err(error) => panic!("not denied, but {error}"),
        Ok(_) => panic!("not denied"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_certificate_writes_only_what_is_its_own() {
    let directory = scratch();
    let authority = Authority::new(directory.path());
    let ours = secured(&authority).await;
    let mut h1 = client_with(&ours.url, &authority, Some("h1")).await;
    let mut h2 = client_with(&ours.url, &authority, Some("h2")).await;
    let mut admin = client_with(&ours.url, &authority, Some("weft-admin")).await;
    let put = |key: &str, value: &str| TxnOp::put(format!("/weft/v1/{key}"), value, None);

    let lease = h1.lease_grant(600, None).await.unwrap().id();
    let live = TxnOp::put("/weft/v1/live/n1", "{}", Some(PutOptions::new().with_lease(lease)));
    let registration = [
        put("node/n1", r#"{"name":"h1"}"#),
        put("nodename/h1", r#"{"node":"n1"}"#),
        put("vtep/4/00000001", r#"{"node":"n1"}"#),
        put("fence/n1", r#"{"state":"active"}"#),
        live,
    ];
    h1.txn(Txn::new().and_then(registration)).await.unwrap();
    h2.put("/weft/v1/node/n2", r#"{"name":"h2"}"#, None).await.unwrap();
    let endpoint = [
        put("net/x/ep/4/0a000001", r#"{"node":"n1"}"#),
        put("net/x/ep/6/01", r#"{"ref":"10.0.0.1"}"#),
        put("ipam/x/blk/4/0a000000", r#"{"node":"n1","st":"owned"}"#),
        put("idx/n1/ep/e1", "{}"),
        put("net/x/member/n1", "{}"),
        put("net/x/spec", "{}"),
    ];
    h1.txn(Txn::new().and_then(endpoint)).await.unwrap();

    for (key, value) in [
        ("node/n1", r#"{"name":"h2"}"#),
        ("node/n3", r#"{"name":"h3"}"#),
        ("fence/n1", "{}"),
        ("live/n1", "{}"),
        ("idx/n1/ep/e2", "{}"),
        ("net/x/member/n1", "{}"),
        ("net/x/ep/4/0a000001", r#"{"node":"n2"}"#),
        ("net/x/ep/4/0a000002", r#"{"node":"n1"}"#),
        ("net/x/ep/6/01", r#"{"ref":"10.0.0.1"}"#),
        ("ipam/x/blk/4/0a000000", r#"{"node":"n2","st":"owned"}"#),
        ("vtep/4/00000001", r#"{"node":"n2"}"#),
        ("nodename/h1", r#"{"node":"n2"}"#),
        ("elect/controller/1", "{}"),
        ("meta/schema", "{}"),
    ] {
        denied(h2.put(format!("/weft/v1/{key}"), value, None).await);
        denied(h2.txn(Txn::new().and_then([put(key, value)])).await);
    }
    denied(h2.put("/elsewhere", "1", None).await);
    denied(h2.delete("/weft/v1/net/x/ep/", Some(etcd_client::DeleteOptions::new().with_prefix())).await);
    denied(h2.lease_revoke(lease).await);
    denied(h2.lease_keep_alive(lease).await);
    denied(h2.put("/weft/v1/live/n2", "{}", Some(PutOptions::new().with_lease(lease))).await);
    assert!(h1.lease_keep_alive(lease).await.is_ok());
    denied(h2.compact(2, None).await);
    assert_eq!(h2.get("/weft/v1/node/n1", None).await.unwrap().kvs().len(), 1);

    admin.put("/weft/v1/fence/n1", r#"{"state":"lost"}"#, None).await.unwrap();
    h2.put("/weft/v1/net/x/ep/4/0a000001", r#"{"node":"n2"}"#, None).await.unwrap();
    admin.delete("/weft/v1/node/n1", None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_certificate_is_not_served() {
    let directory = scratch();
    let authority = Authority::new(directory.path());
    let ours = secured(&authority).await;
    let stranger = scratch();
    let strangers = Authority::new(stranger.path());
    strangers.issue("h1");
    std::fs::copy(directory.path().join("ca.pem"), stranger.path().join("ca.pem.right")).unwrap();

    assert!(client_with(&ours.url, &authority, None).await.get("a", None).await.is_err());
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(strangers.read("ca.pem.right")))
        .identity(Identity::from_pem(strangers.read("h1.pem"), strangers.read("h1.key")));
    let mut other = Client::connect([&ours.url], Some(ConnectOptions::new().with_tls(tls))).await.unwrap();
    assert!(other.get("a", None).await.is_err());
    let plain = ours.url.replace("https", "http");
    assert!(Client::connect([plain], None).await.unwrap().get("a", None).await.is_err());
    assert!(client_with(&ours.url, &authority, Some("h1")).await.get("a", None).await.is_ok());
}

/// Messages as they are.
#[derive(Debug, Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; bytes::Buf::remaining(buffer)];
        bytes::Buf::copy_to_slice(buffer, &mut message);
        Ok(Some(message))
    }
}

const METHODS: [&str; 14] = [
    "KV/Range",
    "KV/Put",
    "KV/DeleteRange",
    "KV/Txn",
    "KV/Compact",
    "Lease/LeaseGrant",
    "Lease/LeaseRevoke",
    "Lease/LeaseTimeToLive",
    "Lease/LeaseLeases",
    "Maintenance/Status",
    "Maintenance/HashKV",
    "Maintenance/Alarm",
    "Cluster/MemberList",
    "Watch/Watch",
];

/// A message of fields that a request could have, with values that it should not.
fn message(rng: &mut StdRng, depth: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rng.random_range(0..6) {
        let field = rng.random_range(1..14_u8);
        match rng.random_range(0..4) {
            0 => {
                bytes.extend([
                    field << 3,
                    0xff,
                    0xff,
                    0xff,
                    0xff,
                    0xff,
                    0xff,
                    0xff,
                    0xff,
                    0xff,
                    rng.random_range(0..3),
                ]);
            }
            1 => bytes.extend([field << 3, rng.random_range(0..128)]),
            2 if depth < 4 => {
                let nested = message(rng, depth + 1);
                bytes.extend([field << 3 | 2, u8::try_from(nested.len().min(127)).unwrap()]);
                bytes.extend(nested);
            }
            _ => bytes.extend([field << 3 | 2, 2, rng.random_range(0..255), 0]),
        }
    }
    if rng.random_bool(0.1) {
        let mut noise = vec![0; rng.random_range(1..60)];
        rng.fill_bytes(&mut noise);
        bytes.extend(noise);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_sent_the_server_goes_on() {
    let directory = scratch();
    let mut server = Server::ours(directory.path(), None);
    let address = server.url.trim_start_matches("http://").to_owned();
    let mut rng = StdRng::seed_from_u64(11);
    for _ in 0..200 {
        let mut stream = TcpStream::connect(&address).unwrap();
        let mut noise = vec![0; rng.random_range(1..400)];
        rng.fill_bytes(&mut noise);
        if rng.random_bool(0.7) {
            noise.splice(0..0, *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        }
        stream.write_all(&noise).ok();
        stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        drop(stream.read(&mut [0; 64]));
    }
    let mut grpc = Grpc::new(Endpoint::from_shared(server.url.clone()).unwrap().connect_lazy());
    for _ in 0..10_000 {
        let method = METHODS[rng.random_range(0..METHODS.len())];
        let path = format!("/etcdserverpb.{method}").parse().unwrap();
        let message = message(&mut rng, 0);
        grpc.ready().await.unwrap();
        let call = async {
            if method == "Watch/Watch" {
                drop(grpc.streaming(Request::new(tokio_stream::once(message)), path, Raw).await);
            } else {
                drop(grpc.unary(Request::new(message), path, Raw).await);
            }
        };
        tokio::time::timeout(Duration::from_secs(5), call).await.expect("every call is answered");
    }
    grpc.ready().await.unwrap();
    let huge = grpc.unary(Request::new(vec![0; 3 << 20]), "/etcdserverpb.KV/Put".parse().unwrap(), Raw).await;
    assert_eq!(huge.unwrap_err().code(), Code::OutOfRange);
    let mut client = server.client().await;
    client.put("a", "1", None).await.unwrap();
    assert_eq!(server.child.try_wait().unwrap(), None, "the server still runs");
}
