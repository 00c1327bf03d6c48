//! Claims of any size stay within what one transaction may hold, and lose nothing on the way.

use std::net::{IpAddr, Ipv4Addr};

use weft_overlay::{
    claims::{Claim as _, CreateEndpoint, CreateEndpoints, NetworkBlock, ReapedEndpoint, finish_delete_network, reap},
    id::{EndpointId, NetworkId},
    keys::Keyspace,
    model::EndpointRecord,
    txn::{Op, Txn},
};

use super::{fits, samples};

fn dual(n: u32) -> EndpointRecord {
    EndpointRecord {
        id: EndpointId::from_entropy(u64::from(n)),
        ipv4: Some(Ipv4Addr::from_bits(0x0a20_0000 + n)),
        ipv6: Some(format!("fd00:1::{n:x}").parse().unwrap()),
        ..samples::endpoint(1)
    }
}

fn writes(txns: &[Txn], wanted: impl Fn(&Op) -> bool) -> usize {
    txns.iter().flat_map(|txn| &txn.then).filter(|op| wanted(op)).count()
}

#[test]
fn a_burst_of_endpoints_is_split_to_fit_and_joins_once_per_transaction() {
    let claim = |n| {
        let claim = CreateEndpoint::new(samples::token(), samples::network(), 20, dual(n)).unwrap();
        claim.in_block(IpAddr::V4(Ipv4Addr::from_bits(0x0a20_0000 + n)), 30).joining(samples::member())
    };
    let claims: Vec<_> = (0..100).map(claim).collect();

    let txns: Vec<_> = CreateEndpoints::grouped(&claims).iter().map(|g| g.txn(&Keyspace::default())).collect();

    assert!(txns.iter().all(fits));
    assert_eq!(writes(&txns, |op| matches!(op, Op::Put { .. })), 100 * 3 + txns.len());
}

#[test]
fn the_memberships_of_a_lost_node_are_split_to_fit() {
    let first = samples::declare_lost(300);
    let keys = Keyspace::default();
    let txn = first.txn(&keys);
    let reply = weft_overlay::txn::TxnReply { succeeded: true, revision: 99, reads: Vec::new() };
    let weft_overlay::claims::LostDeclared::Lost { fence, remaining } = first.outcome(&keys, &reply).unwrap() else {
        panic!("a transaction that succeeded has declared the node lost")
    };
    let rest = weft_overlay::claims::expel_members(&samples::leadership(), samples::node(1), fence, &remaining);
    let txns: Vec<_> = std::iter::once(txn).chain(rest.iter().map(|batch| batch.txn(&keys))).collect();

    assert!(txns.iter().all(fits));
    assert_eq!(writes(&txns, |op| matches!(op, Op::Delete(_))), 300);
}

#[test]
fn reaping_is_split_to_fit() {
    let entry = |n| ReapedEndpoint {
        id: EndpointId::from_entropy(u64::from(n)),
        network: NetworkId::from_entropy(1),
        record: Some(samples::stored(dual(n), 40)),
    };
    let entries: Vec<_> = (0..100).map(entry).collect();

    let batches = reap(&samples::leadership(), samples::node(1), 50, &entries);
    let txns: Vec<_> = batches.iter().map(|batch| batch.txn(&Keyspace::default())).collect();

    assert!(txns.iter().all(fits));
    assert_eq!(writes(&txns, |op| matches!(op, Op::Delete(_))), 300);
}

#[test]
fn the_end_of_a_network_is_split_to_fit_and_its_record_goes_last() {
    let block = |n: u32| NetworkBlock { base: IpAddr::V4(Ipv4Addr::from_bits(n * 16)), node: samples::node(1) };
    let blocks: Vec<_> = (0..500).map(block).collect();
    let spec = samples::stored(samples::spec(), 60);

    let steps = finish_delete_network(&samples::leadership(), samples::network(), &spec, &blocks, 1);
    let txns: Vec<_> = steps.iter().map(|step| step.txn(&Keyspace::default())).collect();

    assert!(txns.iter().all(fits));
    assert_eq!(writes(&txns, |op| matches!(op, Op::Delete(_))), 2 * 500 + 2);
    let last = |txn: &Txn| txn.then.iter().any(|op| matches!(op, Op::DeleteRange(_)));
    assert_eq!(txns.iter().position(last), Some(txns.len() - 1));
}
