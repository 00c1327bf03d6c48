use hickory_proto::op::{Edns, MessageType, OpCode, Query};
use ipnetwork::IpNetwork;
use proptest::prelude::*;
use weft_overlay::id::EndpointId;

use super::*;

const CT1: &str = "10.32.0.2";
const CT2: &str = "10.32.0.3";
const STRANGER: &str = "10.33.0.2";

/// What an answer looks like to a test: forwarded, or its code with its records.
#[derive(Debug, PartialEq)]
enum Told {
    Forward(ResponseCode),
    Reply(ResponseCode, Vec<String>),
}

#[test]
fn answers_by_the_rules() {
    use RecordType as T;
    let table = table();
    let cases: &[(&str, RecordType, Told, &str)] = &[
        ("ct1.", T::A, records(&[CT1]), "name"),
        ("CT1.", T::A, records(&[CT1]), "any case"),
        ("ct1.", T::AAAA, records(&["fd01::2"]), "the other family"),
        ("ct1.", T::ANY, records(&[CT1, "fd01::2"]), "both families"),
        ("ct1.net1.", T::A, records(&[CT1]), "name.network"),
        ("Ct1.NET1.", T::A, records(&[CT1]), "name.network in any case"),
        ("db.main.", T::A, records(&[CT2]), "a name with a dot"),
        ("db.main.net1.", T::A, records(&[CT2]), "a name with a dot and its network"),
        ("ct2.", T::AAAA, records(&[]), "no address of the family: NODATA"),
        ("ct1.", T::MX, records(&[]), "no record of the type: NODATA"),
        ("ct1.", T::HTTPS, records(&[]), "no record of a newer type: NODATA"),
        ("ct1.", T::Unknown(65_000), records(&[]), "no record of an unknown type: NODATA"),
        ("ct9.", T::A, Told::Forward(ResponseCode::NXDomain), "an unknown single label"),
        ("ct9.net1.", T::A, Told::Forward(ResponseCode::NXDomain), "unknown below a visible network"),
        ("example.com.", T::A, Told::Forward(ResponseCode::ServFail), "a name of the outside"),
        ("ct1.example.com.", T::A, Told::Forward(ResponseCode::ServFail), "a name of the outside like ours"),
        (".", T::NS, Told::Forward(ResponseCode::ServFail), "the root"),
        ("ct1.", T::AXFR, Told::Reply(ResponseCode::Refused, vec![]), "a transfer"),
        ("example.com.", T::IXFR, Told::Reply(ResponseCode::Refused, vec![]), "a transfer from the outside"),
    ];
    for (name, wanted, expected, why) in cases {
        assert_eq!(told(&table, &query(name, *wanted), CT1), *expected, "{name} {wanted}: {why}");
    }
}

#[test]
fn answers_reverse_questions_by_the_rules() {
    use RecordType as T;
    let table = table();
    let gone = || Told::Reply(ResponseCode::NXDomain, vec![]);
    let cases: &[(&str, RecordType, Told, &str)] = &[
        ("2.0.32.10.in-addr.arpa.", T::PTR, records(&["ct1.net1."]), "an endpoint"),
        ("2.0.32.10.IN-ADDR.ARPA.", T::PTR, records(&["ct1.net1."]), "in any case"),
        ("2.0.32.10.in-addr.arpa.", T::A, records(&[]), "another type: NODATA"),
        ("1.0.32.10.in-addr.arpa.", T::PTR, gone(), "nobody in a subnet of ours"),
        ("2.0.33.10.in-addr.arpa.", T::PTR, gone(), "an endpoint of a network that the client does not see"),
        ("0.32.10.in-addr.arpa.", T::SOA, records(&[]), "part of a subnet of ours: it exists, empty"),
        ("lb._dns-sd._udp.0.0.32.10.in-addr.arpa.", T::PTR, gone(), "below an address of ours"),
        ("8.8.8.8.in-addr.arpa.", T::PTR, Told::Forward(ResponseCode::ServFail), "the outside"),
        ("10.in-addr.arpa.", T::SOA, Told::Forward(ResponseCode::ServFail), "more than a subnet of ours"),
        ("16.32.10.in-addr.arpa.", T::PTR, Told::Forward(ResponseCode::ServFail), "beside a subnet of ours"),
    ];
    for (name, wanted, expected, why) in cases {
        assert_eq!(told(&table, &query(name, *wanted), CT1), *expected, "{name} {wanted}: {why}");
    }
    let six = |text: &str| Name::from(text.parse::<IpAddr>().unwrap()).to_ascii();
    assert_eq!(told(&table, &query(&six("fd01::2"), T::PTR), CT1), records(&["ct1.net1."]));
    assert_eq!(told(&table, &query(&six("fd01::9"), T::PTR), CT1), gone());
    let outside = told(&table, &query(&six("2001:db8::1"), T::PTR), CT1);
    assert_eq!(outside, Told::Forward(ResponseCode::ServFail));
}

#[test]
fn names_of_other_networks_do_not_leak() {
    let mut table = table();
    let ask = |table: &NameTable, name: &str, client: &str| told(table, &query(name, RecordType::A), client);

    for name in ["secret.", "secret.net2."] {
        assert!(matches!(ask(&table, name, CT1), Told::Forward(_)), "{name} from a member of net1");
        assert!(matches!(ask(&table, name, "10.32.0.77"), Told::Forward(_)), "{name} from an unknown member of net1");
    }
    assert!(matches!(ask(&table, "ct1.", STRANGER), Told::Forward(_)), "a member of net2 at net1's gateway");
    assert!(
        matches!(ask(&table, "ct1.", "10.33.0.77"), Told::Forward(_)),
        "an unknown member of net2 at net1's gateway"
    );
    assert_eq!(ask(&table, "ct1.", "10.32.0.77"), records(&[CT1]), "an unknown member sees the network it asked at");

    table.set_scope(addr(CT1), &[net(1), net(2)]);

    assert_eq!(ask(&table, "secret.", CT1), records(&[STRANGER]));
    assert_eq!(ask(&table, "secret.net2.", CT1), records(&[STRANGER]));
    assert_eq!(told(&table, &query("2.0.33.10.in-addr.arpa.", RecordType::PTR), CT1), records(&["secret.net2."]));
}

#[test]
fn several_endpoints_with_one_alias_answer_in_rotation() {
    let table = table();
    let web = query("web.net1.", RecordType::A);

    let answers: Vec<Told> = (0..3).map(|_| told(&table, &web, CT1)).collect();

    assert_eq!(answers, [records(&[CT1, CT2]), records(&[CT2, CT1]), records(&[CT1, CT2])]);
}

#[test]
fn a_reply_repeats_id_and_question_and_is_authoritative() {
    let mut question = query("cT1.Net1.", RecordType::A);
    question.metadata.recursion_desired = true;

    let reply = reply_over(Transport::Udp, &question, &table());

    assert_eq!(reply.metadata.id, question.metadata.id);
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    assert_eq!(reply.queries[0].name.to_ascii(), "cT1.Net1.", "the case must come back as it was sent");
    let answer = &reply.answers[0];
    assert_eq!((answer.name.to_ascii().as_str(), answer.ttl), ("cT1.Net1.", 7));
    let flags = reply.metadata;
    assert!(flags.authoritative && flags.recursion_available && flags.recursion_desired && !flags.truncation);
    assert!(reply.authorities.is_empty() && reply.edns.is_none());
}

#[test]
fn a_label_with_a_dot_in_it_is_not_two_labels() {
    let odd = Name::from_labels([&b"ct1.net1"[..]]).unwrap();

    let verdict = told(&table(), &message(Query::query(odd, RecordType::A)), CT1);

    assert_eq!(verdict, Told::Forward(ResponseCode::ServFail));
}

#[test]
fn large_answers_are_cut_over_udp_and_whole_over_tcp() {
    let table = crowd(200);
    let plain = query("web.", RecordType::A);
    let mut small = plain.clone();
    small.set_edns(payload(100));
    let mut large = plain.clone();
    large.set_edns(payload(4096));

    // 12 of header, 9 of question, 16 per record, 11 of EDNS.
    for (question, limit, fitting) in [(&plain, 512, 30), (&small, 512, 30), (&large, 1232, 75)] {
        let bytes = send_over(Transport::Udp, question, &table);
        let reply = Message::from_vec(&bytes).unwrap();

        assert!(bytes.len() <= limit, "{} bytes", bytes.len());
        assert_eq!((reply.answers.len(), reply.metadata.truncation), (fitting, true));
        assert_eq!(reply.edns.is_some(), question.edns.is_some());
    }
    let reply = reply_over(Transport::Tcp, &plain, &table);
    assert_eq!((reply.answers.len(), reply.metadata.truncation), (200, false));
}

#[test]
fn an_answer_beyond_the_limit_of_tcp_shows_a_part_that_rotates() {
    let table = crowd(6000);

    let mut question = query("web.", RecordType::A);
    question.set_edns(payload(1232));

    let one = reply_over(Transport::Tcp, &question, &table);
    let next = reply_over(Transport::Tcp, &question, &table);

    assert!((3000..6000).contains(&one.answers.len()), "{}", one.answers.len());
    assert!(!one.metadata.truncation && one.edns.is_some());
    assert_eq!(one.answers[1], next.answers[0]);
}

#[test]
fn edns_is_answered_with_edns() {
    let mut question = query("ct1.", RecordType::A);
    question.set_edns(payload(4096));

    let edns = reply_over(Transport::Udp, &question, &table()).edns.unwrap();

    assert_eq!((edns.max_payload(), edns.version()), (1232, 0));

    question.set_edns({
        let mut newer = payload(4096);
        newer.set_version(1);
        newer
    });
    let reply = reply_over(Transport::Udp, &question, &table());
    assert_eq!(u16::from(reply.metadata.response_code), u16::from(ResponseCode::BADVERS));
    assert!(reply.answers.is_empty());
}

#[test]
fn packets_that_are_not_queries_get_an_error_or_silence() {
    let good = query("ct1.", RecordType::A).to_vec().unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        change(&mut packet);
        raw(&packet)
    };
    let error = |code: u8, opcode: u8| Some((0x80 | opcode << 3, code));

    assert_eq!(with(&|p| p.truncate(11)), None, "too short for a header");
    assert_eq!(with(&|p| p[2] |= 0x80), None, "a response");
    assert_eq!(with(&|p| p[2] |= 5 << 3), error(4, 5), "an update: NOTIMP");
    assert_eq!(with(&|p| p[2] |= 15 << 3), error(4, 15), "an unknown operation: NOTIMP");
    assert_eq!(with(&|p| p.truncate(14)), error(1, 0), "cut in the question: FORMERR");
    assert_eq!(with(&|p| p[5] = 0), error(1, 0), "no question: FORMERR");
    assert_eq!(with(&|p| p[5] = 2), error(1, 0), "two questions: FORMERR");
    assert_eq!(with(&|p| p[4..6].fill(0xff)), error(1, 0), "65,535 questions: FORMERR");
    assert_eq!(with(&|p| p[11] = 1), error(1, 0), "a record is missing: FORMERR");
    assert_eq!(with(&|p| p[12] = 0xc0), error(1, 0), "a name that points to itself: FORMERR");
    let chaos = {
        let mut question = query("version.bind.", RecordType::TXT);
        question.queries[0].query_class = DNSClass::CH;
        told(&table(), &question, CT1)
    };
    assert_eq!(chaos, Told::Reply(ResponseCode::Refused, vec![]), "another class");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn garbage_never_panics_and_never_gets_more_than_it_may(packet in prop::collection::vec(any::<u8>(), 0..700)) {
        check_garbage(&packet)?;
    }

    #[test]
    fn damaged_queries_never_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        tail in prop::collection::vec(any::<u8>(), 0..40),
        name in prop::sample::select(vec!["ct1.net1.", "web.", "2.0.32.10.in-addr.arpa.", "example.com."]),
    ) {
        let mut question = query(name, RecordType::A);
        question.set_edns(payload(1400));
        let mut packet = question.to_vec().unwrap();
        packet.extend(tail);
        for (place, byte) in damage {
            let at = place.index(packet.len());
            packet[at] = byte;
        }
        check_garbage(&packet)?;
    }
}

fn check_garbage(packet: &[u8]) -> Result<(), TestCaseError> {
    let table = table();
    match respond(packet, &asker(CT1, Transport::Udp), &table, 5) {
        Response::Send(reply) => {
            prop_assert!(reply.len() <= 1232);
            prop_assert_eq!(&reply[..2], &packet[..2]);
            prop_assert_eq!(reply[2] & 0x80, 0x80);
            prop_assert!(Message::from_vec(&reply).is_ok(), "{:02x?}", reply);
        }
        Response::Forward(forwarded) => {
            prop_assert!(Message::from_vec(&forwarded.failed()).is_ok());
            prop_assert!(forwarded.answered(packet.to_vec()).len() <= packet.len());
        }
        Response::Ignore => prop_assert!(packet.len() < 12 || packet[2] & 0x80 != 0),
    }
    Ok(())
}

fn table() -> NameTable {
    let mut table = NameTable::new();
    for (id, name, subnets) in [(1, "net1", &["10.32.0.0/20", "fd01::/64"][..]), (2, "net2", &["10.33.0.0/20"])] {
        table.set_network_name(net(id), &name.parse().unwrap());
        let subnets: Vec<IpNetwork> = subnets.iter().map(|s| s.parse().unwrap()).collect();
        table.set_subnets(net(id), &subnets);
    }
    let mut add = |network, endpoint, names: &[&str], addresses: &[&str]| {
        let names: Vec<_> = names.iter().map(|n| n.parse().unwrap()).collect();
        let addresses: Vec<_> = addresses.iter().map(|a| addr(a)).collect();
        table.upsert(net(network), EndpointId::from_entropy(endpoint), &names, &addresses);
    };
    add(1, 1, &["ct1", "web"], &[CT1, "fd01::2"]);
    add(1, 2, &["ct2", "web", "db.main"], &[CT2]);
    add(2, 3, &["secret"], &[STRANGER]);
    table.set_scope(addr(CT1), &[net(1)]);
    table.set_scope(addr(STRANGER), &[net(2)]);
    table
}

fn crowd(size: u32) -> NameTable {
    let mut table = NameTable::new();
    for i in 0..size {
        let address = IpAddr::from((0x0a20_0000 + i).to_be_bytes());
        table.upsert(net(1), EndpointId::from_entropy(i.into()), &["web".parse().unwrap()], &[address]);
    }
    table
}

fn told(table: &NameTable, query: &Message, client: &str) -> Told {
    match answer(query, &asker(client, Transport::Udp), table, 7) {
        Verdict::Forward { without_upstream } => Told::Forward(without_upstream),
        Verdict::Reply(reply) => {
            Told::Reply(reply.metadata.response_code, reply.answers.iter().map(|r| r.data.to_string()).collect())
        }
    }
}

fn reply_over(transport: Transport, query: &Message, table: &NameTable) -> Message {
    Message::from_vec(&send_over(transport, query, table)).unwrap()
}

fn send_over(transport: Transport, query: &Message, table: &NameTable) -> Vec<u8> {
    match respond(&query.to_vec().unwrap(), &asker(CT1, transport), table, 7) {
        Response::Send(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

/// Flags and code of the header-only reply to a packet.
fn raw(packet: &[u8]) -> Option<(u8, u8)> {
    match respond(packet, &asker(CT1, Transport::Udp), &table(), 7) {
        Response::Send(reply) => {
            assert_eq!((reply.len(), &reply[..2]), (12, &packet[..2]));
            Some((reply[2], reply[3]))
        }
        Response::Ignore => None,
        other => panic!("{other:?}"),
    }
}

fn records(data: &[&str]) -> Told {
    Told::Reply(ResponseCode::NoError, data.iter().map(|&d| d.to_owned()).collect())
}

fn query(name: &str, wanted: RecordType) -> Message {
    message(Query::query(Name::from_ascii(name).unwrap(), wanted))
}

fn message(question: Query) -> Message {
    let mut message = Message::new(0xbeef, MessageType::Query, OpCode::Query);
    message.add_query(question);
    message
}

fn payload(size: u16) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    edns
}

fn asker(client: &str, transport: Transport) -> Asker {
    Asker { client: addr(client), network: net(1), transport }
}

fn net(n: u64) -> NetworkId {
    NetworkId::from_entropy(n)
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}
