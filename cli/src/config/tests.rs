use clap::{CommandFactory, Parser};

use super::*;
use crate::args::{Cli, Command};

#[test]
fn an_agent_needs_nothing_but_etcd() {
    let config = agent("--etcd http://10.0.0.1:2379").unwrap();

    assert_eq!(
        config,
        AgentConfig {
            etcd: EtcdConfig {
                endpoints: vec!["http://10.0.0.1:2379".parse().unwrap()],
                tls: None,
                key_prefix: "/weft/v1/".parse().unwrap(),
            },
            host: HostConfig {
                node: "h1".parse().unwrap(),
                underlay: None,
                vxlan_port: 4789,
                state_dir: "/var/lib/weft".into(),
                netns: "weft".parse().unwrap(),
                resolv_conf: "/etc/resolv.conf".into(),
            },
            socket: "/run/weft/weft.sock".into(),
            socket_group: None,
            dns_ttl: Duration::from_secs(5),
            docker: Docker::Auto,
            docker_plugins: "/run/docker/plugins".into(),
            log: LogConfig { filter: "info".parse().unwrap(), format: LogFormat::Text },
        }
    );
}

#[test]
fn an_agent_takes_every_option() {
    let config = agent(
        "--etcd https://a:2379,https://b:2379 --etcd https://c:2379 --etcd-ca ca.pem --etcd-cert h.pem --etcd-key h.key \
         --key-prefix /other/ --node n7 --underlay 192.168.56.0/24 --vxlan-port 8472 --state-dir /s --socket /x.sock \
         --socket-group weft --netns dp --resolv-conf /r --dns-ttl 30 --docker /d.sock --docker-plugins /p --log debug --log-format json",
    )
    .unwrap();

    let identity = Some(EtcdIdentity { cert: "h.pem".into(), key: "h.key".into() });
    assert_eq!(
        config,
        AgentConfig {
            etcd: EtcdConfig {
                endpoints: ["https://a:2379", "https://b:2379", "https://c:2379"]
                    .map(|url| url.parse().unwrap())
                    .into(),
                tls: Some(EtcdTls { ca: "ca.pem".into(), identity }),
                key_prefix: "/other/".parse().unwrap(),
            },
            host: HostConfig {
                node: "n7".parse().unwrap(),
                underlay: Some(Underlay::Subnet("192.168.56.0/24".parse().unwrap())),
                vxlan_port: 8472,
                state_dir: "/s".into(),
                netns: "dp".parse().unwrap(),
                resolv_conf: "/r".into(),
            },
            socket: "/x.sock".into(),
            socket_group: Some("weft".parse().unwrap()),
            dns_ttl: Duration::from_secs(30),
            docker: Docker::At("/d.sock".into()),
            docker_plugins: "/p".into(),
            log: LogConfig { filter: "debug".parse().unwrap(), format: LogFormat::Json },
        }
    );
}

#[test]
fn a_controller_takes_every_option() {
    let config = controller("--etcd http://a:2379 --lost-after 90s --name c1 --key-prefix /o/ --log warn").unwrap();

    assert_eq!(
        config,
        ControllerConfig {
            store: StoreConfig::Etcd(EtcdConfig {
                endpoints: vec!["http://a:2379".parse().unwrap()],
                tls: None,
                key_prefix: "/o/".parse().unwrap(),
            }),
            key_prefix: "/o/".parse().unwrap(),
            lost_after: Duration::from_secs(90),
            name: "c1".parse().unwrap(),
            log: LogConfig { filter: "warn".parse().unwrap(), format: LogFormat::Text },
        }
    );
}

#[test]
fn a_controller_serves_a_store_of_its_own() {
    let plain = controller("--listen 10.0.0.1:2379").unwrap();
    let secured =
        controller("--listen [::]:1 --data-dir /d --cert c --key k --client-ca ca --client-admin root").unwrap();

    let listen = "10.0.0.1:2379".parse().unwrap();
    let client_admin = "weft-admin".to_owned();
    let own = ServingConfig { listen, data_dir: "/var/lib/weft".into(), tls: None, client_admin };
    assert_eq!(plain.store, StoreConfig::Own(own));
    let identity = EtcdIdentity { cert: "c".into(), key: "k".into() };
    let tls = Some(ServingTls { identity, client_ca: Some("ca".into()) });
    let listen = "[::]:1".parse().unwrap();
    let own = ServingConfig { listen, data_dir: "/d".into(), tls, client_admin: "root".to_owned() };
    assert_eq!(secured.store, StoreConfig::Own(own));
}

#[test]
fn settings_of_a_store_that_do_not_fit_together_are_refused() {
    for (arguments, expected) in [
        ("--listen 10.0.0.1", "--listen (WEFT_LISTEN): \"10.0.0.1\" is no address and port"),
        ("--listen 10.0.0.1:1 --etcd http://a:1", "give one of the two"),
        ("--listen 10.0.0.1:1 --cert c", "--key (WEFT_KEY): is missing"),
        ("--listen 10.0.0.1:1 --key k", "--cert (WEFT_CERT): is missing"),
        ("--listen 10.0.0.1:1 --client-ca ca", "--cert (WEFT_CERT): is missing"),
        ("--etcd http://a:1 --cert c", "--cert (WEFT_CERT): is for a store that this controller serves"),
        ("--listen 10.0.0.1:1 --key-prefix x", "--key-prefix"),
        ("", "or serve a store with --listen"),
    ] {
        let message = controller(arguments).unwrap_err().to_string();

        assert!(message.contains(expected), "{arguments}: {message}");
    }
}

#[test]
fn a_controller_waits_an_hour_and_is_named_after_its_host() {
    let config = controller("--etcd http://a:2379").unwrap();

    assert_eq!((config.lost_after, config.name.as_str()), (Duration::from_secs(3600), "h1"));
}

#[test]
fn doctor_does_without_etcd_but_checks_what_it_is_given() {
    assert_eq!(doctor("").unwrap().etcd, None);
    assert!(doctor("--etcd http://a:2379").unwrap().etcd.is_some());
    let message = doctor("--etcd nonsense").unwrap_err().to_string();
    assert!(message.contains("--etcd (WEFT_ETCD): URL \"nonsense\" is malformed"), "{message}");
}

#[test]
fn all_problems_are_reported_together() {
    let error = agent(
        "--etcd nonsense --key-prefix x --node a/b --underlay a-name-that-is-too-long --vxlan-port 0 --netns a/b \
         --dns-ttl x --log a=b=c --log-format xml",
    )
    .unwrap_err();

    assert_eq!(
        error.to_string(),
        "bad configuration; nothing was started\n  \
         --etcd (WEFT_ETCD): URL \"nonsense\" is malformed: it does not begin with http:// or https://; write it as in \
         http://10.0.0.1:2379\n  \
         --key-prefix (WEFT_KEY_PREFIX): key prefix \"x\" is malformed: it does not begin and end with '/'; write it as \
         in /weft/v1/\n  \
         --node (WEFT_NODE): name \"a/b\" is not valid: it contains another character; use 1 to 63 letters, digits, '_', \
         '.' or '-', beginning with a letter or digit\n  \
         --underlay (WEFT_UNDERLAY): \"a-name-that-is-too-long\" is neither an address, a subnet (CIDR) nor an \
         interface's name: interface name \"a-name-that-is-too-long\" is not valid: it is longer than 15 bytes; use 1 to \
         15 bytes without '/', ':' or white space\n  \
         --vxlan-port (WEFT_VXLAN_PORT): \"0\" is not a whole number from 1 to 65535\n  \
         --netns (WEFT_NETNS): namespace \"a/b\" is not valid: it contains '/'; give a plain \
         name, as `ip netns add` takes it\n  \
         --dns-ttl (WEFT_DNS_TTL): \"x\" is not a whole number from 0 to 86400\n  \
         --log (WEFT_LOG): log filter \"a=b=c\" is malformed: error parsing level filter: expected one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5; write a level such as info, or \
         info,weft_overlay=debug\n  \
         --log-format (WEFT_LOG_FORMAT): \"xml\" is neither text nor json"
    );
}

#[test]
fn each_bad_setting_of_an_agent_is_refused() {
    for (line, problem) in [
        ("", "--etcd (WEFT_ETCD): is missing; give the URLs of etcd"),
        ("--etcd http://a:2379,", "--etcd (WEFT_ETCD): URL \"\" is malformed"),
        ("--etcd http://a:2379,https://b:2379 --etcd-ca ca", "--etcd (WEFT_ETCD): mixes http and https"),
        ("--etcd https://a:2379", "--etcd-ca (WEFT_ETCD_CA): is missing; https needs"),
        ("--etcd http://a:2379 --etcd-ca ca", "--etcd-ca (WEFT_ETCD_CA): would not be used"),
        ("--etcd http://a:2379 --etcd-cert c --etcd-key k", "--etcd-key (WEFT_ETCD_KEY): would not be used"),
        ("--etcd https://a:2379 --etcd-ca ca --etcd-cert c", "--etcd-key (WEFT_ETCD_KEY): is missing"),
        ("--etcd https://a:2379 --etcd-ca ca --etcd-key k", "--etcd-cert (WEFT_ETCD_CERT): is missing"),
        ("--etcd https://a:2379 --etcd-ca=", "--etcd-ca (WEFT_ETCD_CA): is empty"),
        ("--etcd http://a:2379 --node=", "--node (WEFT_NODE): name \"\" is not valid: it is empty"),
        ("--etcd http://a:2379 --vxlan-port 65536", "--vxlan-port (WEFT_VXLAN_PORT): \"65536\" is not"),
        ("--etcd http://a:2379 --state-dir=", "--state-dir (WEFT_STATE_DIR): is empty"),
        ("--etcd http://a:2379 --netns ..", "--netns (WEFT_NETNS): namespace \"..\" is not valid"),
        ("--etcd http://a:2379 --resolv-conf=", "--resolv-conf (WEFT_RESOLV_CONF): is empty"),
        ("--etcd http://a:2379 --dns-ttl 86401", "--dns-ttl (WEFT_DNS_TTL): \"86401\" is not"),
        ("--etcd http://a:2379 --log=", "--log (WEFT_LOG): log filter \"\" is malformed: it is empty"),
    ] {
        let message = agent(line).expect_err(line).to_string();
        assert!(message.contains(&format!("\n  {problem}")), "{line}: {message}");
    }
}

#[test]
fn each_bad_setting_of_a_controller_is_refused() {
    for (line, problem) in [
        ("", "--etcd (WEFT_ETCD): is missing"),
        ("--etcd http://a:2379 --lost-after 90", "--lost-after (WEFT_LOST_AFTER): duration \"90\" is malformed"),
        ("--etcd http://a:2379 --lost-after 0s", "--lost-after (WEFT_LOST_AFTER): \"0s\" is too short"),
        ("--etcd http://a:2379 --name a/b", "--name (WEFT_NAME): name \"a/b\" is not valid"),
    ] {
        let message = controller(line).expect_err(line).to_string();
        assert!(message.contains(&format!("\n  {problem}")), "{line}: {message}");
    }
}

#[test]
fn a_host_name_that_cannot_name_a_node_asks_for_the_option() {
    let mut settings = agent_settings("--etcd http://a:2379");
    settings.host_name = Some("(none)".to_owned());
    let message = AgentConfig::try_from(settings.clone()).unwrap_err().to_string();
    assert!(
        message.contains("--node (WEFT_NODE): the host's name does not do as a name: name \"(none)\""),
        "{message}"
    );

    settings.host_name = None;
    let message = AgentConfig::try_from(settings).unwrap_err().to_string();
    assert!(message.contains("--node (WEFT_NODE): is missing, and the host's name could not be read"), "{message}");
}

#[test]
fn every_option_of_a_daemon_has_the_environment_variable_that_messages_name() {
    let cli = Cli::command();
    for name in ["agent", "controller", "doctor"] {
        let command = cli.find_subcommand(name).unwrap();
        let mut seen = 0;
        for argument in command.get_arguments() {
            let option = argument.get_long().unwrap();
            assert_eq!(argument.get_env().unwrap().to_str().unwrap(), variable(option), "{name} --{option}");
            seen += 1;
        }
        assert!(seen > 5, "{name} has {seen} options");
    }
}

fn agent(line: &str) -> Result<AgentConfig, ConfigError> {
    AgentConfig::try_from(agent_settings(line))
}

fn agent_settings(line: &str) -> Settings<AgentArgs> {
    let cli = parse("agent", line);
    let Command::Agent(args) = cli.command else { panic!("not agent") };
    Settings { args: *args, socket: cli.global.socket, host_name: Some("h1".to_owned()) }
}

fn controller(line: &str) -> Result<ControllerConfig, ConfigError> {
    let cli = parse("controller", line);
    let Command::Controller(args) = cli.command else { panic!("not controller") };
    ControllerConfig::try_from(Settings { args: *args, socket: cli.global.socket, host_name: Some("h1".to_owned()) })
}

fn doctor(line: &str) -> Result<DoctorConfig, ConfigError> {
    let cli = parse("doctor", line);
    let Command::Doctor(args) = cli.command else { panic!("not doctor") };
    DoctorConfig::try_from(Settings { args: *args, socket: cli.global.socket, host_name: Some("h1".to_owned()) })
}

fn parse(command: &str, line: &str) -> Cli {
    let words = ["weft", command].into_iter().chain(line.split_whitespace());
    Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"))
}
