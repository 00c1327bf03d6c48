//! Whether a table's chains, rules and sets are as we load them.
//!
//! `nft` prints what it loads in its own way, which changes between versions. So the right listing is found by loading
//! the table once into a network namespace that exists for nothing else, and the live one is compared with that. Must
//! not write to the namespaces of the node, except [`load`].

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    process::{Command, Output, Stdio},
};

use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use weft_overlay::kernel::Table;

use super::render::{self, Manner, TABLE_NAME};
use crate::netns::{Namespace, NetnsError};

/// A table's listing without elements, counters and handles: declarations, and the rules of each chain in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing(BTreeMap<String, Vec<Value>>);

/// Loads a script in the namespace of the calling thread, as one transaction.
pub(super) fn load(script: &str) -> io::Result<()> {
    run_with_input("nft", &["-f", "-"], script).map(drop)
}

/// Lists a table in the namespace of the calling thread.
pub(super) fn list(table: Table) -> io::Result<Listing> {
    let family = render::family_name(table);
    let output = run("nft", &["--json", "--stateless", "--terse", "list", "table", family, TABLE_NAME])?;
    parse(&output)
}

/// The listing of a table as we load it.
pub(super) fn canonical(table: Table, vxlan_port: u16) -> io::Result<Listing> {
    let script = render::script(Manner::Anew, table, vxlan_port, std::iter::empty());
    in_scratch_namespace(move || {
        load(&script)?;
        list(table)
    })
}

/// How a listing differs from the right one, if it does.
pub(super) fn difference(live: &Listing, canonical: &Listing) -> Option<String> {
    let missing = canonical.0.iter().find(|(place, wanted)| live.0.get(*place) != Some(wanted));
    if let Some((place, _)) = missing {
        let how = if live.0.contains_key(place) { "is changed" } else { "is missing" };
        return Some(format!("{place} {how}"));
    }
    live.0.keys().find(|place| !canonical.0.contains_key(*place)).map(|place| format!("{place} is not ours"))
}

fn in_scratch_namespace<R: Send>(work: impl FnOnce() -> io::Result<R> + Send) -> io::Result<R> {
    std::thread::scope(|scope| {
        let inside = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            work()
        };
        let thread = std::thread::Builder::new().name("scratch".to_owned()).spawn_scoped(scope, inside)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn parse(output: &str) -> io::Result<Listing> {
    let document: Value = serde_json::from_str(output)?;
    let objects = document["nftables"].as_array().ok_or_else(|| unexpected("no list of objects"))?;
    let mut listing: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for object in objects {
        let (kind, body) = object.as_object().and_then(|o| o.iter().next()).ok_or_else(|| unexpected("no object"))?;
        let mut body = body.clone();
        if let Some(fields) = body.as_object_mut() {
            fields.remove("handle");
        }
        let name = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        let place = match kind.as_str() {
            "metainfo" => continue,
            "rule" => format!("rules of chain {}", name("chain")),
            other => format!("{other} {}", name("name")),
        };
        listing.entry(place).or_default().push(body);
    }
    Ok(Listing(listing))
}

fn unexpected(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the listing of nft contains {what}"))
}

/// Runs a program in the namespace of the calling thread and returns what it prints.
pub(super) fn run(program: &str, arguments: &[&str]) -> io::Result<String> {
    run_with_input(program, arguments, "")
}

/// The same, with something to read.
pub(super) fn run_with_input(program: &str, arguments: &[&str], input: &str) -> io::Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|cause| io::Error::new(cause.kind(), format!("{program} cannot be started: {cause}")))?;
    let mut stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // A program that ends early closes its input; its message says more than the broken pipe.
        let feeder = scope.spawn(move || stdin.take().map(|mut pipe| pipe.write_all(input.as_bytes())));
        let output = child.wait_with_output();
        drop(feeder.join());
        output
    })?;
    completed(program, output)
}

fn completed(program: &str, output: Output) -> io::Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let first = message.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(io::Error::other(format!("{program}: {first}")))
}

/// Runs fallible work in a namespace.
pub(super) fn within<R: Send>(namespace: &Namespace, work: impl FnOnce() -> io::Result<R> + Send) -> io::Result<R> {
    namespace.run(work).map_err(|error| match error {
        NetnsError::Open { cause, .. } | NetnsError::Enter { cause, .. } | NetnsError::Thread { cause, .. } => cause,
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_the_place() {
        let listing = |rules: &str| parse(&format!("{{\"nftables\": [{{\"metainfo\": {{}}}}{rules}]}}")).unwrap();
        let rule = |handle: u8, port: u16| {
            format!(",{{\"rule\": {{\"chain\": \"input\", \"handle\": {handle}, \"expr\": [{port}]}}}}")
        };
        let canonical = listing(&rule(1, 22));

        assert_eq!(difference(&listing(&rule(9, 22)), &canonical), None);
        assert_eq!(difference(&listing(&rule(1, 23)), &canonical).unwrap(), "rules of chain input is changed");
        assert_eq!(difference(&listing(""), &canonical).unwrap(), "rules of chain input is missing");
        assert_eq!(difference(&canonical, &listing("")).unwrap(), "rules of chain input is not ours");
    }

    #[test]
    fn a_program_that_fails_is_quoted() {
        let error = run("nft", &["list", "table", "inet", "no_such_table_exists"]).unwrap_err();

        assert!(error.to_string().starts_with("nft: "), "{error}");
        assert!(run("no-such-program-exists", &[]).unwrap_err().to_string().contains("no-such-program-exists"));
    }
}
