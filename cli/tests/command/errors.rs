//! Errors on the way to the agent and its refusals: the message, the exit code and their JSON.

use std::{os::unix::net::UnixListener, path::Path};

use serde_json::{Value, json};

use crate::{fake_agent::FakeAgent, outcome, run, weft};

#[test]
fn a_missing_socket_says_how_to_get_an_agent() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("weft.sock");

    fails(
        &socket,
        69,
        "unavailable",
        &format!("no agent answers at {}: is `weft agent` running? set WEFT_SOCKET or --socket", socket.display()),
    );
}

#[test]
fn a_socket_that_its_agent_left_behind_is_told_from_a_missing_one() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("weft.sock");
    drop(UnixListener::bind(&socket).unwrap());

    fails(
        &socket,
        69,
        "unavailable",
        &format!(
            "nothing listens at {} any more: the agent that made it has ended; start `weft agent`, or set WEFT_SOCKET \
             or --socket",
            socket.display()
        ),
    );
}

#[test]
fn a_path_that_cannot_be_a_socket_is_named_with_the_cause() {
    let long = format!("/{}", "x".repeat(200));

    fails(Path::new(&long), 69, "unavailable", &format!("connecting to the agent at {long}: path must be shorter"));
}

#[test]
fn an_agent_that_closes_the_connection_is_unavailable() {
    let agent = FakeAgent::sends(Vec::new());
    let message = format!("the agent at {} closed the connection without a reply: ", agent.socket().display());
    fails_once(&agent, &["status"], 69, &message);

    let agent = FakeAgent::sends(Vec::new());
    let unknown = "without a reply (whether it carried out the request is not known: list what is there)";
    fails_once(&agent, &["network", "rm", "net1"], 69, unknown);
}

#[test]
fn a_reply_that_is_cut_short_is_no_reply() {
    let agent = FakeAgent::sends(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec());

    fails_once(&agent, &["status"], 69, "closed the connection without a reply");
}

#[test]
fn what_does_not_speak_http_is_no_agent() {
    let agent = FakeAgent::sends(b"220 mail.example ESMTP\r\n".to_vec());

    fails_once(&agent, &["status"], 69, "does not speak HTTP, so it is not an agent");
}

#[test]
fn a_reply_that_is_not_json_is_shown() {
    let agent = FakeAgent::replies_text(200, "<html>");
    fails_once(
        &agent,
        &["status"],
        69,
        "is not an agent of this version: status 200, reply \"<html>\": expected value",
    );

    let agent = FakeAgent::replies_text(502, "");
    fails_once(&agent, &["status"], 69, "is not an agent of this version: status 502, reply \"\": EOF");
}

#[test]
fn a_reply_of_another_shape_is_shown() {
    let agent = FakeAgent::replies(200, &json!({"steps": 1}));
    fails_once(&agent, &["plan"], 69, "is not an agent of this version: status 200, reply \"{\\\"steps\\\":1}\"");

    let agent = FakeAgent::replies(404, &json!({"message": "page not found"}));
    fails_once(&agent, &["plan"], 69, "missing field `class`");
}

#[test]
fn refusals_are_printed_as_the_agent_worded_them_with_the_exit_code_of_their_class() {
    for (status, class, code) in [
        (400, "invalid", 1),
        (404, "not_found", 1),
        (409, "conflict", 1),
        (503, "unavailable", 69),
        (500, "internal", 1),
    ] {
        let reply = json!({"class": class, "error": "network \"net1\" is in use by ct1; use --force"});

        let agent = FakeAgent::replies(status, &reply);
        let (actual, stdout, stderr) = ask(&agent, &["network", "rm", "net1"]);
        assert_eq!((actual, stdout.as_str()), (code, ""), "{class}");
        assert_eq!(stderr, "error: network \"net1\" is in use by ct1; use --force\n");

        let agent = FakeAgent::replies(status, &reply);
        let (actual, stdout, stderr) = ask(&agent, &["network", "rm", "net1", "-o", "json"]);
        assert_eq!((actual, stdout.as_str()), (code, ""), "{class}");
        assert_eq!(serde_json::from_str::<Value>(&stderr).unwrap(), reply);
    }
}

#[test]
fn an_error_of_the_agent_cannot_steer_the_terminal() {
    let agent = FakeAgent::replies(400, &json!({"class": "invalid", "error": "name \u{1b}[2J\nis bad"}));

    let (_, _, stderr) = ask(&agent, &["plan"]);

    assert_eq!(stderr, "error: name \\u{1b}[2J\\nis bad\n");
}

#[test]
fn a_malformed_argument_is_a_usage_error_before_any_agent_is_asked() {
    for args in [
        &["connect", "net1", "a/b"][..],
        &["network", "create", ".."],
        &["network", "create", "net1", "--label", "a=1", "--label", "a=2"],
        &["endpoint", "inspect", "x"],
        &["nonsense"],
    ] {
        let (code, stdout, stderr) = run(args);

        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}");
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
}

#[test]
fn the_option_wins_over_the_environment() {
    let (_, _, stderr) = outcome(weft(["--socket", "/a", "status"]).env("WEFT_SOCKET", "/b").output().unwrap());
    assert!(stderr.contains("answers at /a:"), "{stderr}");

    let (_, _, stderr) = outcome(weft(["status", "--socket", "/a"]).env("WEFT_SOCKET", "/b").output().unwrap());
    assert!(stderr.contains("answers at /a:"), "{stderr}");
}

/// Fails with text and with JSON.
fn fails(socket: &Path, code: i32, class: &str, message: &str) {
    let output = weft(["status"]).env("WEFT_SOCKET", socket).output().unwrap();
    let (actual, stdout, stderr) = outcome(output);
    assert_eq!((actual, stdout.as_str()), (code, ""), "{stderr}");
    assert!(stderr.starts_with(&format!("error: {message}")), "{stderr}");

    let output = weft(["status", "-o", "json"]).env("WEFT_SOCKET", socket).output().unwrap();
    let (actual, stdout, stderr) = outcome(output);
    assert_eq!((actual, stdout.as_str()), (code, ""), "{stderr}");
    let object: Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(object["class"], class);
    assert!(object["error"].as_str().unwrap().starts_with(message), "{stderr}");
}

fn fails_once(agent: &FakeAgent, args: &[&str], code: i32, message: &str) {
    let (actual, stdout, stderr) = ask(agent, args);
    assert_eq!((actual, stdout.as_str()), (code, ""), "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.contains(message), "{stderr}");
}

fn ask(agent: &FakeAgent, args: &[&str]) -> (i32, String, String) {
    outcome(weft(args).env("WEFT_SOCKET", agent.socket()).output().unwrap())
}
