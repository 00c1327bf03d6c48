//! What cannot be tried with the binary in reasonable time or as root; the rest is in tests/command.

use std::os::unix::net::UnixListener;

use serde_json::Value;

use super::*;
use crate::exit::{Exit, Failure};

#[test]
fn an_agent_that_accepts_but_never_answers_is_given_up_at_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("weft.sock");
    // The kernel accepts on behalf of a listener that never calls accept: so does an agent that was stopped.
    let _listener = UnixListener::bind(&socket).unwrap();
    let hurried = |request: AgentRequest| AgentRequest { deadline: Duration::from_millis(50), ..request };

    let error = Client::new(&socket).call::<Value>(hurried(AgentRequest::status())).unwrap_err();
    assert!(matches!(error, ClientError::Silent { changes: false, .. }), "{error}");
    assert_eq!(Failure::from(error).exit(), Exit::Unavailable);

    let error = Client::new(&socket).call::<Value>(hurried(AgentRequest::drain_node(&name(), false))).unwrap_err();
    assert!(matches!(error, ClientError::Silent { changes: true, .. }), "{error}");
}

#[test]
fn a_reply_that_never_came_leaves_open_whether_a_change_was_made() {
    let silent =
        |changes| ClientError::Silent { socket: "/s".into(), deadline: Duration::from_secs(30), changes }.to_string();

    assert_eq!(
        silent(false),
        "the agent at /s did not answer within 30 s; `weft agent` may be stopped or overloaded: see its log"
    );
    assert!(silent(true).contains("(whether it carried out the request is not known: list what is there)"));
}

#[test]
fn a_socket_that_is_not_ours_asks_for_privilege() {
    let error = Client::new(Path::new("/s")).connect_error(io::ErrorKind::PermissionDenied.into());

    let expected = "/s may not be used by this user: run the command as root, or as a member of the group that the agent \
                    has with --socket-group";
    assert_eq!(error.to_string(), expected);
    let failure = Failure::from(error);
    assert_eq!((failure.exit(), failure.class()), (Exit::Privilege, "privilege"));
}

#[test]
fn a_long_reply_is_shown_shortened() {
    assert_eq!(excerpt(b"short"), "short");
    assert_eq!(excerpt(&[b'x'; 1000]).chars().count(), 81);
}

fn name() -> weft_overlay::id::Name {
    "h1".parse().unwrap()
}
