//! What each command asks and what it prints: pages as committed, JSON as the agent sent it.

use serde_json::{Value, json};

use crate::{
    fake_agent::{FakeAgent, Received},
    golden, outcome, replies, weft,
};

/// A command, the request that it must send, the reply, and the name of the page's committed text.
struct Case {
    args: &'static str,
    request: &'static str,
    body: Value,
    reply: Value,
    page: &'static str,
}

#[test]
fn each_command_sends_its_request_and_prints_the_reply_as_a_page() {
    for case in cases() {
        let (code, stdout, stderr, received) = ask(case.args, &case.reply);

        assert_eq!((code, stderr.as_str()), (0, ""), "weft {}", case.args);
        assert_eq!(received, Received { line: case.request.to_owned(), body: case.body }, "weft {}", case.args);
        golden::compare(case.page, &stdout);
    }
}

#[test]
fn json_output_is_the_reply_itself() {
    for case in cases() {
        let (code, stdout, stderr, _) = ask(&format!("{} -o json", case.args), &case.reply);

        assert_eq!((code, stderr.as_str()), (0, ""), "weft {}", case.args);
        assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap(), case.reply, "weft {}", case.args);
        assert!(stdout.ends_with('\n'), "{stdout}");
    }
}

#[test]
fn legs_are_left_out_of_lists_unless_all_is_asked_for() {
    let both = json!([replies::endpoint(), replies::leg()]);

    let (_, stdout, _, received) = ask("endpoint ls -o json", &both);
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap(), json!([replies::endpoint()]));
    assert_eq!(received.line, "GET /v1/endpoints");

    let (_, stdout, _, received) = ask("endpoint ls --all -o json", &both);
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap(), both);
    assert_eq!(received.line, "GET /v1/endpoints?all=true");

    let (_, stdout, _, _) = ask("endpoint ls --all", &both);
    golden::compare("endpoint-ls-all", &stdout);
}

#[test]
fn warnings_go_to_standard_error_on_pages_and_stay_in_the_object_in_json() {
    let (code, stdout, stderr, _) = ask("connect net1 ct1", &replies::warned_endpoint());
    assert_eq!((code, stderr.as_str()), (0, "warning: /etc/netns/ct1/resolv.conf is not ours and was left as it is\n"));
    assert!(!stdout.contains("resolv.conf"), "{stdout}");

    let (code, stdout, stderr, _) = ask("connect net1 ct1 -o json", &replies::warned_endpoint());
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap(), replies::warned_endpoint());
}

#[test]
fn empty_lists_are_a_header_for_people_and_an_empty_array_for_programs() {
    for args in ["network ls", "endpoint ls", "node ls"] {
        let (code, stdout, _, _) = ask(args, &json!([]));
        assert_eq!((code, stdout.lines().count()), (0, 1), "{stdout}");

        let (code, stdout, _, _) = ask(&format!("{args} -o json"), &json!([]));
        assert_eq!((code, stdout.as_str()), (0, "[]\n"));
    }
}

#[test]
fn fields_that_a_newer_agent_added_do_not_disturb() {
    let mut node = replies::node();
    node["added_later"] = json!(1);

    let (code, _, stderr, _) = ask("node inspect h1", &node);

    assert_eq!((code, stderr.as_str()), (0, ""));
}

fn cases() -> Vec<Case> {
    let case = |args, request, reply, page| Case { args, request, body: Value::Null, reply, page };
    let with_body = |args, request, body, reply, page| Case { args, request, body, reply, page };
    vec![
        with_body(
            "network create net1 --subnet 10.40.0.0/24 --label tier=db",
            "POST /v1/networks",
            json!({
                "name": "net1", "subnets": ["10.40.0.0/24"], "gateways": [], "ip_ranges": [], "vni": null, "mtu": null,
                "internal": false, "labels": {"tier": "db"}
            }),
            replies::network(),
            "network-create",
        ),
        case("network ls", "GET /v1/networks", replies::networks(), "network-ls"),
        case("network inspect net1", "GET /v1/networks/net1", replies::inspected_network(), "network-inspect"),
        case("network rm net1", "DELETE /v1/networks/net1?force=false", replies::removed_network(), "network-rm"),
        with_body(
            "connect net1 ct1 --ip 10.32.0.5 --publish 8080:80",
            "POST /v1/connect",
            json!({
                "network": "net1", "container": "ct1", "name": null, "ipv4": "10.32.0.5", "ipv6": null, "mac": null,
                "aliases": [], "ifname": null, "published": [{"protocol": "tcp", "host_port": 8080, "port": 80}]
            }),
            replies::endpoint(),
            "connect",
        ),
        with_body(
            "disconnect net1 pid:7",
            "POST /v1/disconnect",
            json!({"network": "net1", "container": "pid:7"}),
            replies::endpoint(),
            "disconnect",
        ),
        case(
            "endpoint ls --network net1 --node h1",
            "GET /v1/endpoints?network=net1&node=h1",
            json!([replies::endpoint()]),
            "endpoint-ls",
        ),
        case("endpoint inspect 0123456789ff", "GET /v1/endpoints/0123456789ff", replies::leg(), "endpoint-inspect-leg"),
        case("node ls", "GET /v1/nodes", replies::nodes(), "node-ls"),
        case("node inspect h1", "GET /v1/nodes/h1", replies::inspected_node(), "node-inspect"),
        case("node drain h1 --undo", "POST /v1/nodes/h1/drain?undo=true", replies::node(), "node-drain"),
        case("node rm h1", "DELETE /v1/nodes/h1?force=false", replies::node(), "node-rm"),
        case("status", "GET /v1/status", replies::status(), "status"),
        case("status", "GET /v1/status", replies::troubled_status(), "status-troubled"),
        case("plan", "GET /v1/plan", replies::plan(), "plan"),
        case("plan", "GET /v1/plan", replies::empty_plan(), "plan-empty"),
        case("dump", "GET /v1/dump", replies::dump(), "dump"),
    ]
}

fn ask(args: &str, reply: &Value) -> (i32, String, String, Received) {
    let agent = FakeAgent::replies(200, reply);
    let output = weft(args.split_whitespace()).env("WEFT_SOCKET", agent.socket()).output().unwrap();
    let (code, stdout, stderr) = outcome(output);
    assert_eq!(code, 0, "weft {args}: {stderr}");
    (code, stdout, stderr, agent.received())
}
