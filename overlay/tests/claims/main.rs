//! Every transaction as text, so that a review reads it like the table in ARCHITECTURE.md. `BLESS=1` rewrites the files.

#![expect(clippy::unwrap_used, reason = "what is not as expected fails the test")]

use std::{fmt::Write as _, path::PathBuf};

use weft_overlay::{
    claims::{Claim, MAX_TXN_OPS},
    keys::{KeyRange, Keyspace},
    txn::{Compare, Op, Txn},
};

mod batches;
mod samples;

fn render(title: &str, txn: &Txn) -> String {
    let mut text = format!("{title}\n");
    section(&mut text, "if", txn.compares.iter().map(compare));
    section(&mut text, "then", txn.then.iter().map(op));
    section(&mut text, "else", txn.or_else.iter().map(op));
    text
}

fn section(text: &mut String, word: &str, lines: impl Iterator<Item = String>) {
    for (n, line) in lines.enumerate() {
        let word = if n == 0 { word } else { "" };
        writeln!(text, "  {word:<5} {line}").unwrap();
    }
}

fn compare(compare: &Compare) -> String {
    match compare {
        Compare::Absent(key) => format!("absent  {}", show(key)),
        Compare::At(key, revision) => format!("at {revision:<4} {}", show(key)),
        Compare::CreatedAt(key, revision) => format!("created at {revision} {}", show(key)),
        Compare::Empty(range) => format!("empty   {}", show_range(range)),
    }
}

fn op(op: &Op) -> String {
    match op {
        Op::Put { key, value, lease: None } => format!("put     {} {}", show(key), show(value)),
        Op::Put { key, value, lease: Some(lease) } => format!("put     {} lease {lease:x} {}", show(key), show(value)),
        Op::Delete(key) => format!("delete  {}", show(key)),
        Op::DeleteRange(range) => format!("delete  {}", show_range(range)),
        Op::Read(key) => format!("read    {}", show(key)),
        Op::ReadRange(range, limit) => format!("read    {} limit {limit}", show_range(range)),
    }
}

fn show(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|b| if b.is_ascii_graphic() { char::from(*b).to_string() } else { format!("\\x{b:02x}") })
        .collect()
}

fn show_range(range: &KeyRange) -> String {
    format!("[{} {})", show(&range.start), show(&range.end))
}

#[expect(clippy::disallowed_methods, reason = "golden files")]
fn agrees_with_golden(name: &str, texts: &[String]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let actual = texts.join("\n");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "{} differs; BLESS=1 rewrites it", path.display());
}

fn shown(title: &str, claim: &impl Claim) -> String {
    let txn = claim.txn(&Keyspace::default());
    assert!(fits(&txn), "{title} has too many operations");
    render(title, &txn)
}

fn fits(txn: &Txn) -> bool {
    [txn.compares.len(), txn.then.len(), txn.or_else.len()].into_iter().all(|n| n <= MAX_TXN_OPS)
}

#[test]
fn node_transactions_read_as_documented() {
    agrees_with_golden(
        "node.txt",
        &[
            shown("R1 register", &samples::register()),
            shown("R2 rejoin", &samples::rejoin()),
            shown("R3 return", &samples::come_back()),
            shown("update node", &samples::update_node()),
            shown("update node: new name and VTEP", &samples::rename_node()),
            shown("drain", &samples::drain(true)),
            shown("undrain", &samples::drain(false)),
            shown("remove node", &samples::remove_node()),
        ],
    );
}

#[test]
fn block_transactions_read_as_documented() {
    agrees_with_golden(
        "block.txt",
        &[shown("B1 claim", &samples::claim_block()), shown("B2 release", &samples::release_block())],
    );
}

#[test]
fn endpoint_transactions_read_as_documented() {
    let single = samples::create_endpoint();
    let pair = weft_overlay::claims::CreateEndpoints::grouped(&[single.clone(), samples::create_second()]);
    agrees_with_golden(
        "endpoint.txt",
        &[
            shown("E1 create: dual stack, in a block", &single),
            shown("E1 create: the gateway leg, which joins", &samples::create_leg()),
            shown("E1 create: a burst", &pair[0]),
            shown("S1 create: a static address", &samples::create_static()),
            shown("E2 delete", &samples::delete_endpoint(false)),
            shown("E2 delete: the last one, which leaves", &samples::delete_endpoint(true)),
            shown("update endpoint", &samples::update_endpoint()),
            shown("update member", &samples::update_member()),
            shown("M1 move", &samples::move_endpoint()),
        ],
    );
}

#[test]
fn network_transactions_read_as_documented() {
    agrees_with_golden(
        "network.txt",
        &[
            shown("N1 create", &samples::create_network()),
            shown("N2 begin deletion", &samples::begin_delete(false)),
            shown("N2 begin deletion: by force", &samples::begin_delete(true)),
            shown("N3 finish deletion", &samples::finish_delete()),
        ],
    );
}

#[test]
fn leader_transactions_read_as_documented() {
    agrees_with_golden(
        "leader.txt",
        &[
            shown("F1 declare lost", &samples::declare_lost(2)),
            shown("F1 the rest of the memberships", &samples::expel()),
            shown("G1 reap", &samples::reap()),
            shown("G2 quarantine", &samples::quarantine()),
        ],
    );
}
