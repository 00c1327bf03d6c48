//! A resolver of the outside, with a zone and some bad habits. It remembers what it was asked.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, Record, rdata},
};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::names::stream;

/// The resolver; ends with its drop.
pub(super) struct Outside {
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

struct State {
    asked: Mutex<Vec<String>>,
    ids: Mutex<Vec<u16>>,
    failing: AtomicBool,
    count: watch::Sender<usize>,
    released: watch::Sender<bool>,
}

impl Outside {
    pub(super) async fn start(address: IpAddr, port: u16) -> Self {
        let state = Arc::new(State {
            asked: Mutex::default(),
            ids: Mutex::default(),
            failing: AtomicBool::new(false),
            count: watch::Sender::new(0),
            released: watch::Sender::new(false),
        });
        let udp = Arc::new(UdpSocket::bind((address, port)).await.unwrap());
        let tcp = TcpListener::bind((address, port)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, Arc::clone(&state)));
        tasks.spawn(serve_tcp(tcp, Arc::clone(&state)));
        Self { state, _tasks: tasks }
    }

    /// What came, in order: transport and name.
    pub(super) fn asked(&self) -> Vec<String> {
        self.state.asked.lock().unwrap().clone()
    }

    pub(super) fn ids(&self) -> Vec<u16> {
        self.state.ids.lock().unwrap().clone()
    }

    /// Answers REFUSED from here on.
    pub(super) fn fail_everything(&self) {
        self.state.failing.store(true, Ordering::SeqCst);
    }

    pub(super) async fn wait_until_asked(&self, times: usize) {
        let mut count = self.state.count.subscribe();
        let reached = timeout(Duration::from_secs(10), count.wait_for(|seen| *seen >= times)).await;
        assert!(reached.is_ok(), "asked only {:?}", self.asked());
    }

    /// Lets the answers for slow.example go.
    pub(super) fn release(&self) {
        self.state.released.send_replace(true);
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, state: Arc<State>) {
    let mut pending = JoinSet::new();
    let mut packet = [0; 4096];
    loop {
        let (length, client) = socket.recv_from(&mut packet).await.unwrap();
        let query = Message::from_vec(&packet[..length]).unwrap();
        let (socket, state) = (Arc::clone(&socket), Arc::clone(&state));
        pending.spawn(async move {
            let mut reply = state.reply(&query, "udp").await;
            match name(&query).as_str() {
                "big.example." => reply = reply.truncate(),
                "spoofed.example." => mislead(&socket, &reply, client).await,
                _ => {}
            }
            socket.send_to(&reply.to_vec().unwrap(), client).await.unwrap();
        });
    }
}

async fn serve_tcp(socket: TcpListener, state: Arc<State>) {
    loop {
        let (mut connection, _) = socket.accept().await.unwrap();
        while let Ok(packet) = stream::read(&mut connection, 65_535).await {
            let reply = state.reply(&Message::from_vec(&packet).unwrap(), "tcp").await;
            stream::write(&mut connection, &reply.to_vec().unwrap()).await.unwrap();
        }
    }
}

/// Sends what an attacker would: the right question under another id, and another question under the right id.
async fn mislead(socket: &UdpSocket, reply: &Message, client: SocketAddr) {
    let mut wrong_id = reply.clone();
    wrong_id.metadata.id ^= 1;
    let mut wrong_question = reply.clone();
    wrong_question.queries =
        vec![Query::query(Name::from_ascii("other.example.").unwrap(), reply.queries[0].query_type)];
    let query_again = {
        let mut echo = reply.clone();
        echo.metadata.message_type = hickory_proto::op::MessageType::Query;
        echo
    };
    for mut lie in [wrong_id, wrong_question, query_again] {
        lie.answers.iter_mut().for_each(|r| r.data = RData::A(rdata::A::new(203, 0, 113, 66)));
        socket.send_to(&lie.to_vec().unwrap(), client).await.unwrap();
    }
}

impl State {
    async fn reply(&self, query: &Message, transport: &str) -> Message {
        let name = name(query);
        self.asked.lock().unwrap().push(format!("{transport} {name}"));
        self.ids.lock().unwrap().push(query.metadata.id);
        self.count.send_modify(|count| *count += 1);
        let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
        reply.add_queries(query.queries.iter().cloned());
        let mut add = |last: u8| {
            let data = RData::A(rdata::A(Ipv4Addr::new(198, 51, 100, last)));
            reply.add_answer(Record::from_rdata(query.queries[0].name.clone(), 60, data));
        };
        match name.as_str() {
            _ if self.failing.load(Ordering::SeqCst) => reply.metadata.response_code = ResponseCode::Refused,
            "www.example." | "spoofed.example." => add(1),
            "slow.example." => {
                add(2);
                self.released.subscribe().wait_for(|released| *released).await.unwrap();
            }
            "big.example." | "huge.example." => (0..100).for_each(add),
            _ => reply.metadata.response_code = ResponseCode::NXDomain,
        }
        reply
    }
}

fn name(query: &Message) -> String {
    query.queries[0].name.to_ascii()
}
