//! Prints what one change costs with 100,000 endpoints present: taking it in, planning for what it affects, and believing
//! the result. Run it with
//! `cargo run --release -p weft-overlay --no-default-features --example one_change`.

#![expect(clippy::print_stdout, reason = "it is a measurement for people")]
#![expect(clippy::disallowed_methods, reason = "measuring takes a clock")]

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use weft_overlay::{
    codec::encode_record,
    id::{EndpointId, Mac, NetworkId, NodeId},
    kernel::{KernelState, ObjectId, Scope},
    keys::{Key, Keyspace},
    model::{EndpointKind, EndpointRecord, MemberRecord, NetworkSpec, NetworkState, SubnetSpec},
    plan::{plan, plan_everything},
    txn::{KeyValue, Revision},
    view::{NodeConfig, NodeView},
};

const ENDPOINTS: u32 = 100_000;
const NODES: u32 = 1_000;
const CHANGES: u32 = 10_000;

fn main() {
    let network = NetworkId::from_entropy(1);
    let mut view = NodeView::new(config(), Keyspace::default(), 1500);
    view.follow(network);
    view.set_index(&[]);
    let content = content(network);

    let began = Instant::now();
    let affected = view.set_network(network, content.clone(), 10);
    println!("listing {ENDPOINTS} endpoints: {:?}, {} objects affected", began.elapsed(), affected.len());

    let mut observed = KernelState::default();
    let began = Instant::now();
    let all = plan_everything(&view, &observed);
    println!("planning for everything: {:?}, {} steps", began.elapsed(), all.steps.len());
    believe(&mut observed, &all);

    let mut times = Vec::new();
    let mut steps = 0;
    for change in 0..CHANGES {
        let record = container(change * 7 % ENDPOINTS, change % NODES + 2);
        let kv = endpoint_key(network, &record, 11 + Revision::from(change));
        let began = Instant::now();
        let affected = view.put(network, &kv);
        let plan = plan(&view, &observed, &affected);
        steps += plan.steps.len();
        believe(&mut observed, &plan);
        times.push(began.elapsed());
    }
    report("one change", &mut times);
    println!("  {steps} steps in all");

    let mut times = Vec::new();
    let mut differing = 0;
    for id in observed.objects.keys().step_by(50).cloned().collect::<Vec<ObjectId>>() {
        let object = observed.objects[&id].clone();
        let began = Instant::now();
        let read = KernelState { objects: [(id.clone(), object)].into() };
        differing += observed.absorb(&Scope::Objects([id].into()), read).len();
        times.push(began.elapsed());
    }
    report("settling a doubt about one object", &mut times);
    println!("  {differing} differed");

    let began = Instant::now();
    let rest = plan_everything(&view, &observed);
    println!("comparing everything: {:?}, {} steps", began.elapsed(), rest.steps.len());
}

fn believe(observed: &mut KernelState, plan: &weft_overlay::plan::Plan) {
    for step in &plan.steps {
        match step.result() {
            Some(object) => observed.objects.insert(step.id().clone(), object.clone()),
            None => observed.objects.remove(step.id()),
        };
    }
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let micros = |at: usize| times[at].as_secs_f64() * 1e6;
    let last = times.len() - 1;
    println!(
        "{what}: p50 {:.1} µs, p99 {:.1} µs, max {:.1} µs",
        micros(last / 2),
        micros(last * 99 / 100),
        micros(last)
    );
}

fn config() -> NodeConfig {
    NodeConfig { node: NodeId::from_entropy(1), boot_id: "boot".to_owned(), vtep: vtep(1), vxlan_port: 4789 }
}

fn content(network: NetworkId) -> Vec<KeyValue> {
    let own_leg = EndpointRecord { kind: EndpointKind::Leg, ..container(ENDPOINTS, 1) };
    let mut kvs = vec![kv(&Key::Spec(network), encode_record(&spec()), 1), endpoint_key(network, &own_leg, 1)];
    kvs.extend((1..=NODES).map(|node| {
        let record = MemberRecord { v: 1, vtep: vtep(node), epoch: 1, underlay_mtu: 1500, extra: [].into() };
        kv(&Key::Member(network, NodeId::from_entropy(node.into())), encode_record(&record), 1)
    }));
    kvs.extend((0..ENDPOINTS).map(|number| endpoint_key(network, &container(number, number % NODES + 1), 1)));
    kvs
}

fn spec() -> NetworkSpec {
    let subnet = SubnetSpec {
        subnet: "10.32.0.0/11".parse().expect("a literal subnet"),
        gateway: IpAddr::V4(Ipv4Addr::new(10, 32, 0, 1)),
        ip_range: None,
        auxiliary: Vec::new(),
        block_len: 26,
    };
    NetworkSpec {
        v: 1,
        name: "large".parse().expect("a literal name"),
        vni: 65_537.try_into().expect("a literal VNI"),
        subnets: vec![subnet],
        mtu: None,
        internal: false,
        labels: [].into(),
        docker_options: [].into(),
        state: NetworkState::Active,
        force_delete: false,
        extra: [].into(),
    }
}

fn container(number: u32, node: u32) -> EndpointRecord {
    let ip = Ipv4Addr::from_bits(0x0a20_0100 + number);
    EndpointRecord {
        v: 1,
        id: EndpointId::from_entropy(number.into()),
        node: NodeId::from_entropy(node.into()),
        epoch: 1,
        mac: Mac::derived_from(IpAddr::V4(ip)),
        vtep: vtep(node),
        kind: EndpointKind::Container,
        name: format!("ct{number}").parse().expect("a literal name"),
        aliases: vec![],
        ipv4: Some(ip),
        ipv6: None,
        sandbox: None,
        docker: None,
        published: vec![],
        extra: [].into(),
    }
}

fn endpoint_key(network: NetworkId, record: &EndpointRecord, revision: Revision) -> KeyValue {
    let ip = record.primary_address().expect("every record here has an IPv4 address");
    kv(&Key::Endpoint(network, ip), encode_record(record), revision)
}

fn kv(key: &Key, value: Vec<u8>, revision: Revision) -> KeyValue {
    let key = Keyspace::default().encode(key);
    KeyValue { key, value, create_revision: revision, mod_revision: revision, lease: 0 }
}

fn vtep(node: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0xac10_0000 + node))
}
