//! Commands that need no agent, and readers that go away or disks that are full.

use std::{fs::File, io, process::Stdio};

use serde_json::{Value, json};

use crate::{fake_agent::FakeAgent, outcome, replies, run, weft};

#[test]
fn version_is_printed_for_people_and_for_programs() {
    let version = env!("CARGO_PKG_VERSION");

    assert_eq!(run(["version"]), (0, format!("weft {version}\n"), String::new()));
    assert_eq!(run(["--version"]), (0, format!("weft {version}\n"), String::new()));
    let (code, stdout, _) = run(["version", "-o", "json"]);
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap(), json!({"name": "weft", "version": version}));
}

#[test]
fn completion_knows_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, stdout, stderr) = run(["completion", shell]);

        assert_eq!((code, stderr.as_str()), (0, ""), "{shell}");
        assert!(stdout.contains("ip-range"), "{shell}: no options of network create");
    }
}

#[test]
fn a_reader_that_went_away_is_no_failure() {
    let agent = FakeAgent::replies(200, &replies::networks());
    let socket = agent.socket();
    for args in [&["completion", "bash"][..], &["version"], &["--help"], &["network", "ls"]] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);

        let child = weft(args).env("WEFT_SOCKET", &socket).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let (code, _, stderr) = outcome(child.wait_with_output().unwrap());

        assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let full = File::options().write(true).open("/dev/full").unwrap();

    let child = weft(["version"]).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let (code, _, stderr) = outcome(child.wait_with_output().unwrap());

    assert_eq!(code, 1);
    assert!(stderr.starts_with("error: writing to standard output: No space left on device"), "{stderr}");
}

#[test]
fn standard_error_that_went_away_changes_no_exit_code() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);

    let status = weft(["status", "--socket", "/nowhere/weft.sock"]).stderr(writer).status().unwrap();

    assert_eq!(status.code(), Some(69));
}
