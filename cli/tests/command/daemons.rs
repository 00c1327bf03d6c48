//! How daemons start: settings from options and environment, and what is wrong with them.

use serde_json::Value;

use crate::{outcome, run, weft};

#[test]
fn bad_settings_are_reported_together_with_their_own_exit_code() {
    let output = weft(["agent", "--dns-ttl", "x"])
        .env("WEFT_ETCD", "10.0.0.1:2379")
        .env("WEFT_NODE", "h1")
        .env("WEFT_VXLAN_PORT", "0")
        .output()
        .unwrap();

    let (code, stdout, stderr) = outcome(output);
    assert_eq!((code, stdout.as_str()), (78, ""));
    assert_eq!(
        stderr,
        "error: bad configuration; nothing was started\n  \
         --etcd (WEFT_ETCD): URL \"10.0.0.1:2379\" is malformed: it does not begin with http:// or https://; write it \
         as in http://10.0.0.1:2379\n  \
         --vxlan-port (WEFT_VXLAN_PORT): \"0\" is not a whole number from 1 to 65535\n  \
         --dns-ttl (WEFT_DNS_TTL): \"x\" is not a whole number from 0 to 86400\n"
    );
}

#[test]
fn a_daemon_without_a_store_is_badly_configured() {
    for command in ["agent", "controller"] {
        let (code, _, stderr) = run([command]);

        assert_eq!(code, 78);
        assert!(stderr.contains("\n  --etcd (WEFT_ETCD): is missing; give the URLs of etcd"), "{stderr}");
    }
}

#[test]
fn an_unknown_group_for_the_socket_is_bad_configuration() {
    let agent = |group| run(["agent", "--etcd", "http://10.0.0.1:2379", "--node", "h1", "--socket-group", group]);

    let (code, stdout, stderr) = agent("no-such-group");
    assert_eq!((code, stdout.as_str()), (78, ""));
    assert!(stderr.contains("--socket-group (WEFT_SOCKET_GROUP)"), "{stderr}");
    assert!(stderr.contains("\"no-such-group\" is not in /etc/group") && stderr.contains("groupadd"), "{stderr}");
    let (code, _, stderr) = agent("a:b");
    assert_eq!(code, 78);
    assert!(stderr.contains("--socket-group (WEFT_SOCKET_GROUP): group \"a:b\" is not valid"), "{stderr}");
}

#[test]
fn bad_settings_are_an_object_for_programs() {
    let (code, stdout, stderr) = run(["controller", "--lost-after", "soon", "-o", "json"]);

    assert_eq!((code, stdout.as_str()), (78, ""));
    let object: Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(object["class"], "configuration");
    assert!(object["error"].as_str().unwrap().contains("--lost-after (WEFT_LOST_AFTER)"), "{stderr}");
}

#[test]
fn doctor_validates_the_same_settings() {
    let (code, _, stderr) = run(["doctor", "--vxlan-port", "99999"]);

    assert_eq!(code, 78);
    assert!(stderr.contains("--vxlan-port (WEFT_VXLAN_PORT): \"99999\" is not"), "{stderr}");
}
