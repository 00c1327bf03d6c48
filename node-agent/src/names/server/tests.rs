//! Real sockets on loopback: every test has addresses of its own, the outside is a resolver within the test.

mod outside;

use std::net::Ipv4Addr;

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};
use weft_overlay::id::EndpointId;

use self::outside::Outside;
use super::*;
use crate::names::stream;

const PORT: u16 = 15_353;
/// How long anything in these tests may take before it counts as lost.
const DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn answers_its_own_names_over_udp_and_tcp() {
    let lab = Lab::start(1, &[]).await;

    let over_udp = lab.ask("ct1.net1.", RecordType::A).await;
    let over_tcp = lab.ask_tcp("ct1.", RecordType::A).await;

    assert_eq!(data(&over_udp), ["10.32.0.2"]);
    assert_eq!(data(&over_tcp), ["10.32.0.2"]);
    assert_eq!(over_udp.answers[0].ttl, 5);
}

#[tokio::test]
async fn follows_the_table_whatever_becomes_of_the_resolvers() {
    let lab = Lab::start(2, &["127.0.0.1"]).await;
    let endpoint = EndpointId::from_entropy(9);
    let change = |apply: &dyn Fn(&mut NameTable)| apply(&mut lab.table.write().unwrap());

    assert_ne!(code(&lab.ask("late.", RecordType::A).await), ResponseCode::NoError);
    change(&|t| t.upsert(net(1), endpoint, &["late".parse().unwrap()], &["10.32.0.9".parse().unwrap()]));
    assert_eq!(data(&lab.ask("late.", RecordType::A).await), ["10.32.0.9"]);
    change(&|t| t.remove(net(1), endpoint));

    assert_ne!(code(&lab.ask("late.", RecordType::A).await), ResponseCode::NoError);
    assert_eq!(data(&lab.ask("ct1.", RecordType::A).await), ["10.32.0.2"], "a name that nobody removed stays");
}

#[tokio::test]
async fn a_client_sees_only_the_names_of_its_networks() {
    let lab = Lab::start(3, &[]).await;
    lab.table.write().unwrap().set_scope(lab.client(), &[net(1), net(2)]);
    assert_eq!(data(&lab.ask("ct2.net2.", RecordType::A).await), ["10.33.0.2"]);

    lab.table.write().unwrap().set_scope(lab.client(), &[net(1)]);

    assert_eq!(code(&lab.ask("ct2.net2.", RecordType::A).await), ResponseCode::ServFail);
    assert_eq!(code(&lab.ask("ct2.", RecordType::A).await), ResponseCode::NXDomain);
}

#[tokio::test]
async fn other_questions_go_to_the_next_resolver_when_one_is_dead_or_silent() {
    let lab = Lab::start(4, &[]).await;
    let silent = UdpSocket::bind((lab.at(21), PORT)).await.unwrap();
    let outside = Outside::start(lab.at(22), PORT).await;
    lab.set_resolvers(&[lab.at(20), lab.at(21), lab.at(22)]);

    let reply = lab.ask("www.example.", RecordType::A).await;

    assert_eq!(data(&reply), ["198.51.100.1"]);
    assert_eq!(outside.asked(), ["udp www.example."]);
    let mut packet = [0; 512];
    let (length, _) = timeout(DEADLINE, silent.recv_from(&mut packet)).await.unwrap().unwrap();
    let seen = Message::from_vec(&packet[..length]).unwrap();
    assert_eq!(seen.queries[0].name.to_ascii(), "www.example.", "the silent one was asked before");
}

#[tokio::test]
async fn a_resolver_that_fails_is_passed_over_but_its_word_is_better_than_none() {
    let lab = Lab::start(5, &[]).await;
    let failing = Outside::start(lab.at(20), PORT).await;
    failing.fail_everything();
    let working = Outside::start(lab.at(21), PORT).await;
    lab.set_resolvers(&[lab.at(20), lab.at(21)]);

    assert_eq!(data(&lab.ask("www.example.", RecordType::A).await), ["198.51.100.1"]);
    working.fail_everything();
    assert_eq!(code(&lab.ask("www.example.", RecordType::A).await), ResponseCode::Refused);

    assert_eq!((failing.asked().len(), working.asked().len()), (2, 2));
}

#[tokio::test]
async fn a_slow_resolver_delays_no_local_answer() {
    let lab = Lab::start(6, &[]).await;
    let outside = Outside::start(lab.at(20), PORT).await;
    lab.set_resolvers(&[lab.at(20)]);
    let client = lab.udp_client().await;
    let mut connection = lab.connect().await;

    client.send(&query("slow.example.", RecordType::A)).await.unwrap();
    stream::write(&mut connection, &query("slow.example.", RecordType::A)).await.unwrap();
    outside.wait_until_asked(2).await;
    client.send(&query("ct1.", RecordType::A)).await.unwrap();
    stream::write(&mut connection, &query("ct1.", RecordType::A)).await.unwrap();

    assert_eq!(data(&receive(&client).await), ["10.32.0.2"]);
    assert_eq!(data(&receive_tcp(&mut connection).await), ["10.32.0.2"], "also on the same connection");
    connection.shutdown().await.unwrap();
    outside.release();
    assert_eq!(data(&receive(&client).await), ["198.51.100.2"]);
    assert_eq!(data(&receive_tcp(&mut connection).await), ["198.51.100.2"], "a half-closed connection still gets it");
}

#[tokio::test]
async fn a_truncated_reply_is_passed_on_over_udp_and_fetched_whole_for_tcp() {
    let lab = Lab::start(7, &[]).await;
    let outside = Outside::start(lab.at(20), PORT).await;
    lab.set_resolvers(&[lab.at(20)]);

    let over_udp = lab.ask("big.example.", RecordType::A).await;
    let over_tcp = lab.ask_tcp("big.example.", RecordType::A).await;

    assert!(over_udp.metadata.truncation && over_udp.answers.is_empty());
    assert!(!over_tcp.metadata.truncation);
    assert_eq!(over_tcp.answers.len(), 100);
    assert_eq!(outside.asked(), ["udp big.example.", "udp big.example.", "tcp big.example."]);
}

#[tokio::test]
async fn a_foreign_reply_larger_than_the_client_can_take_is_cut() {
    let lab = Lab::start(8, &[]).await;
    let _outside = Outside::start(lab.at(20), PORT).await;
    lab.set_resolvers(&[lab.at(20)]);
    let client = lab.udp_client().await;

    let plain = lab.ask("huge.example.", RecordType::A).await;
    let mut roomy = Message::from_vec(&query("huge.example.", RecordType::A)).unwrap();
    roomy.set_edns({
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        edns
    });
    client.send(&roomy.to_vec().unwrap()).await.unwrap();

    assert!(plain.metadata.truncation && plain.answers.is_empty());
    assert_eq!(plain.queries[0].name.to_ascii(), "huge.example.");
    assert_eq!(receive(&client).await.answers.len(), 100);
}

#[tokio::test]
async fn replies_to_another_question_or_id_are_not_believed() {
    let lab = Lab::start(9, &[]).await;
    let outside = Outside::start(lab.at(20), PORT).await;
    lab.set_resolvers(&[lab.at(20)]);

    for _ in 0..3 {
        let reply = lab.ask("spoofed.example.", RecordType::A).await;
        assert_eq!(data(&reply), ["198.51.100.1"]);
        assert_eq!(reply.metadata.id, ID, "the client's own id comes back");
    }

    let sent_on: BTreeSet<u16> = outside.ids().into_iter().collect();
    assert!(sent_on.len() > 1, "each question has a random id: {sent_on:?}");
}

#[tokio::test]
async fn without_a_resolver_the_answer_comes_at_once() {
    let lab = Lab::start(10, &[]).await;
    let started = Instant::now();

    for (name, expected) in [
        ("ct9.", ResponseCode::NXDomain),
        ("ct9.net1.", ResponseCode::NXDomain),
        ("www.example.", ResponseCode::ServFail),
    ] {
        assert_eq!(code(&lab.ask(name, RecordType::A).await), expected, "{name}");
    }

    assert!(started.elapsed() < lab.timeout, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_resolver_at_our_own_gateway_is_never_asked() {
    let lab = Lab::start(11, &[]).await;
    lab.set_resolvers(&[lab.gateway()]);
    assert_eq!(code(&lab.ask("ct9.", RecordType::A).await), ResponseCode::NXDomain, "as if there were none");

    let guarded = Lab::start(12, &[]).await;
    let outside = Outside::start(guarded.at(20), PORT).await;
    guarded.set_resolvers(&[guarded.gateway(), guarded.at(20)]);

    assert_eq!(data(&guarded.ask("www.example.", RecordType::A).await), ["198.51.100.1"]);
    assert_eq!(outside.asked(), ["udp www.example."], "asked once, by us");
}

#[tokio::test]
async fn too_many_questions_for_the_outside_fail_at_once_and_local_ones_do_not() {
    let options = ServerOptions { forwards: 2, ..Lab::options() };
    let lab = Lab::start_with(13, options).await;
    let outside = Outside::start(lab.at(20), PORT).await;
    lab.set_resolvers(&[lab.at(20)]);
    let client = lab.udp_client().await;

    client.send(&query("slow.example.", RecordType::A)).await.unwrap();
    outside.wait_until_asked(1).await;

    assert_eq!(code(&lab.ask("www.example.", RecordType::A).await), ResponseCode::ServFail);
    assert_eq!(data(&lab.ask("ct1.", RecordType::A).await), ["10.32.0.2"]);
    outside.release();
    assert_eq!(data(&receive(&client).await), ["198.51.100.2"]);
    assert_eq!(data(&lab.ask("www.example.", RecordType::A).await), ["198.51.100.1"], "there is room again");
}

#[tokio::test]
async fn silent_and_surplus_connections_are_closed() {
    let options = ServerOptions { connections: 4, idle: Duration::from_millis(300), ..Lab::options() };
    let lab = Lab::start_with(14, options).await;

    let mut first = lab.connect().await;
    stream::write(&mut first, &query("ct1.", RecordType::A)).await.unwrap();
    assert_eq!(data(&receive_tcp(&mut first).await), ["10.32.0.2"]);
    let mut surplus = lab.connect().await;

    let closed = timeout(DEADLINE, stream::read(&mut surplus, 512)).await.expect("the surplus one is closed");
    assert!(closed.is_err(), "{closed:?}");
    let closed = timeout(DEADLINE, stream::read(&mut first, 512)).await.expect("the silent one is closed");
    assert!(closed.is_err(), "{closed:?}");
    assert_eq!(data(&lab.ask_tcp("ct1.", RecordType::A).await), ["10.32.0.2"], "there is room again");
}

#[tokio::test]
async fn survives_garbage_on_both_sockets() {
    let lab = Lab::start(15, &[]).await;
    let client = lab.udp_client().await;
    let mut connection = lab.connect().await;

    for garbage in [&[][..], &[0], &[0xff; 12], &[0; 5000]] {
        client.send(garbage).await.unwrap();
    }
    connection.write_all(&[0xff; 40]).await.unwrap();

    assert_eq!(data(&lab.ask("ct1.", RecordType::A).await), ["10.32.0.2"]);
    assert_eq!(data(&lab.ask_tcp("ct1.", RecordType::A).await), ["10.32.0.2"]);
}

#[tokio::test]
async fn sockets_come_and_go_with_what_is_wanted() {
    let mut lab = Lab::start(16, &[]).await;
    let (kept, added) = (lab.gateway(), lab.at(2));
    let before = lab.task_ids();

    assert!(lab.server.ensure_listening(&wanted(&[(1, kept), (2, added)])).await.is_empty());
    assert!(before.is_subset(&lab.task_ids()), "sockets that are right stay");
    assert_eq!(lab.server.listening(), BTreeSet::from([(net(1), kept), (net(2), added)]));

    assert!(lab.server.ensure_listening(&wanted(&[(2, kept)])).await.is_empty(), "an address may change its network");
    assert_eq!(lab.server.listening(), BTreeSet::from([(net(2), kept)]));
    assert_eq!(data(&lab.ask("ct2.", RecordType::A).await), ["10.33.0.2"], "now the gateway of the other network");
    assert!(TcpStream::connect((added, PORT)).await.is_err(), "closed");

    assert!(lab.server.ensure_listening(&BTreeMap::new()).await.is_empty());
    assert!(TcpStream::connect((kept, PORT)).await.is_err(), "closed");
}

#[tokio::test]
async fn a_socket_that_cannot_be_opened_is_reported_and_tried_again() {
    let mut lab = Lab::start(17, &[]).await;
    let taken = lab.at(2);
    let holder = std::net::TcpListener::bind((taken, PORT)).unwrap();
    let both = wanted(&[(1, lab.gateway()), (2, taken)]);

    let failed = lab.server.ensure_listening(&both).await;

    let [error] = failed.as_slice() else { panic!("{failed:?}") };
    assert_eq!((error.network, error.address, error.transport), (net(2), (taken, PORT).into(), Transport::Tcp));
    assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
    assert_eq!(lab.server.listening(), BTreeSet::from([(net(1), lab.gateway())]));
    drop(holder);
    assert!(lab.server.ensure_listening(&both).await.is_empty());
    assert_eq!(lab.server.listening().len(), 2);
}

#[tokio::test]
async fn an_address_need_not_exist_yet() {
    let mut lab = Lab::start(18, &[]).await;
    let absent: [IpAddr; 2] = ["192.0.2.53".parse().unwrap(), "2001:db8::53".parse().unwrap()];

    let failed = lab.server.ensure_listening(&BTreeMap::from([(net(1), absent.to_vec())])).await;

    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(lab.server.listening().len(), 2);
}

#[tokio::test]
async fn answers_over_ipv6() {
    // There is one loopback address only, so it is the port that another run on this machine must not meet.
    let port = PORT + 1 + u16::try_from(std::process::id() % 10_000).unwrap();
    let mut lab = Lab::start_with(19, ServerOptions { port, ..Lab::options() }).await;
    let loopback: IpAddr = "::1".parse().unwrap();

    assert!(lab.server.ensure_listening(&wanted(&[(1, loopback)])).await.is_empty());
    let client = UdpSocket::bind((loopback, 0)).await.unwrap();
    client.connect((loopback, port)).await.unwrap();
    client.send(&query("ct1.", RecordType::AAAA)).await.unwrap();

    assert_eq!(data(&receive(&client).await), ["fd01::2"]);
}

const ID: u16 = 0x5afe;

/// A server at one loopback address, with ct1 in net1 and ct2 in net2.
struct Lab {
    test: u8,
    timeout: Duration,
    table: Arc<RwLock<NameTable>>,
    server: NameServer,
    etc: tempfile::TempDir,
}

impl Lab {
    fn options() -> ServerOptions {
        ServerOptions { port: PORT, ..ServerOptions::default() }
    }

    async fn start(test: u8, resolvers: &[&str]) -> Self {
        let lab = Self::start_with(test, Self::options()).await;
        lab.set_resolvers(&resolvers.iter().map(|r| r.parse().unwrap()).collect::<Vec<_>>());
        lab
    }

    async fn start_with(test: u8, options: ServerOptions) -> Self {
        let etc = tempfile::tempdir().unwrap();
        let timeout = Duration::from_secs(2);
        let upstream = Upstream::new(etc.path().join("resolv.conf")).with_port(PORT).with_timeout(timeout);
        let table = Arc::new(RwLock::new(table()));
        let server = NameServer::new(Arc::clone(&table), upstream, options);
        let mut lab = Self { test, timeout, table, server, etc };
        let failed = lab.server.ensure_listening(&wanted(&[(1, lab.gateway())])).await;
        assert!(failed.is_empty(), "{failed:?}");
        lab
    }

    /// An address of this test's own: also another run of the tests on this machine does not meet it.
    fn at(&self, host: u8) -> IpAddr {
        let run = u8::try_from(std::process::id() % 200).unwrap() + 40;
        Ipv4Addr::new(127, run, self.test, host).into()
    }

    fn gateway(&self) -> IpAddr {
        self.at(1)
    }

    fn client(&self) -> IpAddr {
        self.at(100)
    }

    /// Must come before the first question to the outside: the file is looked at once a second.
    fn set_resolvers(&self, resolvers: &[IpAddr]) {
        let text: String = resolvers.iter().map(|r| format!("nameserver {r}\n")).collect();
        std::fs::write(self.etc.path().join("resolv.conf"), text).unwrap();
    }

    async fn ask(&self, name: &str, wanted: RecordType) -> Message {
        let client = self.udp_client().await;
        client.send(&query(name, wanted)).await.unwrap();
        receive(&client).await
    }

    async fn ask_tcp(&self, name: &str, wanted: RecordType) -> Message {
        let mut connection = self.connect().await;
        stream::write(&mut connection, &query(name, wanted)).await.unwrap();
        receive_tcp(&mut connection).await
    }

    async fn udp_client(&self) -> UdpSocket {
        let client = UdpSocket::bind((self.client(), 0)).await.unwrap();
        client.connect((self.gateway(), PORT)).await.unwrap();
        client
    }

    async fn connect(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((self.client(), 0).into()).unwrap();
        socket.connect((self.gateway(), PORT).into()).await.unwrap()
    }

    fn task_ids(&self) -> BTreeSet<String> {
        self.server.listeners.values().map(|task| task.id().to_string()).collect()
    }
}

fn table() -> NameTable {
    let mut table = NameTable::new();
    for (id, name, container, addresses) in
        [(1, "net1", "ct1", &["10.32.0.2", "fd01::2"][..]), (2, "net2", "ct2", &["10.33.0.2"])]
    {
        table.set_network_name(net(id), &name.parse().unwrap());
        let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        table.upsert(net(id), EndpointId::from_entropy(id), &[container.parse().unwrap()], &addresses);
    }
    table
}

fn query(name: &str, wanted: RecordType) -> Vec<u8> {
    let mut message = Message::new(ID, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), wanted));
    message.to_vec().unwrap()
}

async fn receive(client: &UdpSocket) -> Message {
    let mut packet = [0; 8192];
    let length = timeout(DEADLINE, client.recv(&mut packet)).await.expect("an answer in time").unwrap();
    Message::from_vec(&packet[..length]).unwrap()
}

async fn receive_tcp(connection: &mut TcpStream) -> Message {
    let packet = timeout(DEADLINE, stream::read(connection, 65_535)).await.expect("an answer in time").unwrap();
    Message::from_vec(&packet).unwrap()
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

fn wanted(gateways: &[(u64, IpAddr)]) -> BTreeMap<NetworkId, Vec<IpAddr>> {
    gateways.iter().map(|(id, address)| (net(*id), vec![*address])).collect()
}

fn net(n: u64) -> NetworkId {
    NetworkId::from_entropy(n)
}
