use clap::{Command as ClapCommand, CommandFactory, error::ErrorKind};
use weft_node_agent::api::messages::{Connect, CreateNetwork, Disconnect};

use super::*;

#[test]
fn the_definition_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_a_long_help_with_examples_and_exit_codes() {
    let mut seen = 0;
    visit(&Cli::command(), &mut |command| {
        let name = command.get_name();
        let after = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
        assert!(command.get_long_about().is_some(), "{name} has no long help");
        assert!(after.starts_with("Examples:\n  weft "), "{name}: {after}");
        assert!(after.contains("Exit codes:\n  0   done\n"), "{name}: {after}");
        seen += 1;
    });

    assert_eq!(seen, 29);
}

#[test]
fn every_example_can_be_typed() {
    let mut seen = 0;
    visit(&Cli::command(), &mut |command| {
        let after = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
        for line in after.lines().filter_map(|line| line.strip_prefix("  weft ")) {
            let end = [" #", " |", " >"].iter().filter_map(|end| line.find(end)).min().unwrap_or(line.len());
            parse(&line[..end]);
            seen += 1;
        }
    });

    assert!(seen > 40, "only {seen} examples were found");
}

#[test]
fn every_argument_is_explained() {
    visit(&Cli::command(), &mut |command| {
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} of {}", argument.get_id(), command.get_name());
        }
    });
}

#[test]
fn network_create_takes_every_option() {
    let Command::Network(NetworkArgs { command: NetworkCommand::Create(args) }) = parse(
        "network create net1 --subnet 10.40.0.0/24 --subnet fd00:40::/64 --gateway 10.40.0.254 --gateway fd00:40::1 \
         --ip-range 10.40.0.128/25 --vni 70000 --mtu 1400 --internal --label tier=db --label a=b=c",
    )
    .command
    else {
        panic!("not network create")
    };

    assert_eq!(
        CreateNetwork::try_from(args).unwrap(),
        serde_json::from_value(serde_json::json!({
            "name": "net1",
            "subnets": ["10.40.0.0/24", "fd00:40::/64"],
            "gateways": ["10.40.0.254", "fd00:40::1"],
            "ip_ranges": ["10.40.0.128/25"],
            "vni": 70000,
            "mtu": 1400,
            "internal": true,
            "labels": {"tier": "db", "a": "b=c"},
        }))
        .unwrap()
    );
}

#[test]
fn network_create_leaves_what_is_not_given_to_the_cluster() {
    let Command::Network(NetworkArgs { command: NetworkCommand::Create(args) }) = parse("network create net1").command
    else {
        panic!("not network create")
    };

    let expected = serde_json::from_value(serde_json::json!({"name": "net1"})).unwrap();
    assert_eq!(CreateNetwork::try_from(args).unwrap(), expected);
}

#[test]
fn a_label_given_twice_is_refused() {
    let Command::Network(NetworkArgs { command: NetworkCommand::Create(args) }) =
        parse("network create net1 --label a=1 --label a=2").command
    else {
        panic!("not network create")
    };

    let message = CreateNetwork::try_from(args).unwrap_err().to_string();
    assert_eq!(message, "label \"a\" is given twice; give each key once");
}

#[test]
fn connect_takes_every_option() {
    let Command::Connect(args) = parse(
        "connect net1 ct1 --name web --ip 10.32.0.50 --ip6 fd00::50 --mac 02:42:0a:20:00:32 --alias db --alias db-1 \
         --ifname eth7 --publish 8080:80 --publish [::1]:53:5353/udp",
    )
    .command
    else {
        panic!("not connect")
    };

    assert_eq!(
        Connect::from(*args),
        serde_json::from_value(serde_json::json!({
            "network": "net1",
            "container": "ct1",
            "name": "web",
            "ipv4": "10.32.0.50",
            "ipv6": "fd00::50",
            "mac": "02:42:0a:20:00:32",
            "aliases": ["db", "db-1"],
            "ifname": "eth7",
            "published": [
                {"protocol": "tcp", "host_port": 8080, "port": 80},
                {"protocol": "udp", "host_ip": "::1", "host_port": 53, "port": 5353},
            ],
        }))
        .unwrap()
    );
}

#[test]
fn connect_and_disconnect_keep_the_container_as_it_was_written() {
    for container in ["ct1", "/proc/4711/ns/net", "pid:4711"] {
        let Command::Connect(args) = parse(&format!("connect net1 {container}")).command else { panic!("not connect") };
        assert_eq!(Connect::from(*args).container, container);

        let Command::Disconnect(args) = parse(&format!("disconnect net1 {container}")).command else {
            panic!("not disconnect")
        };
        let expected = Disconnect { network: "net1".parse().unwrap(), container: container.to_owned() };
        assert_eq!(Disconnect::from(args), expected);
    }
}

#[test]
fn the_remaining_commands_take_their_options() {
    let force = |line: &str| matches!(parse(line).command, Command::Network(NetworkArgs { command: NetworkCommand::Rm { force, .. } }) if force);
    assert!(force("network rm net1 --force"));
    assert!(!force("network rm net1"));

    let undo = |line: &str| matches!(parse(line).command, Command::Node(NodeArgs { command: NodeCommand::Drain { undo, .. } }) if undo);
    assert!(undo("node drain h1 --undo"));
    assert!(!undo("node drain h1"));

    let Command::Endpoint(EndpointArgs { command: EndpointCommand::Ls { network, node, all } }) =
        parse("endpoint ls --network net1 --node h1 --all").command
    else {
        panic!("not endpoint ls")
    };
    assert_eq!((network, node, all), (Some("net1".parse().unwrap()), Some("h1".parse().unwrap()), true));

    assert!(matches!(parse("completion zsh").command, Command::Completion { shell: Shell::Zsh }));
}

#[test]
fn global_options_stand_anywhere() {
    for line in [
        "--socket /tmp/s -o json network inspect net1",
        "network --socket /tmp/s inspect --output json net1",
        "network inspect net1 --socket=/tmp/s -ojson",
    ] {
        assert_eq!(parse(line).global, GlobalArgs { socket: "/tmp/s".into(), output: Format::Json }, "{line}");
    }
    let defaults = GlobalArgs { socket: "/run/weft/weft.sock".into(), output: Format::Table };
    assert_eq!(parse("network ls").global, defaults);
}

#[test]
fn malformed_values_are_refused_with_what_to_write_instead() {
    let long = "x".repeat(300);
    let long_name = format!("network create {long}");
    for (line, reason) in [
        ("network create a/b", "it contains another character; use 1 to 63 letters"),
        ("network create ..", "it begins with something else"),
        ("network create a..b", "it contains '..'"),
        (&long_name, "it is longer than 63 bytes"),
        ("network create net1 --subnet 10.0.0.0", "write it as in 10.40.0.0/24"),
        ("network create net1 --subnet 10.0.0.1/24", "the subnet that contains it is 10.0.0.0/24"),
        ("network create net1 --subnet nonsense", "write an address and a prefix length"),
        ("network create net1 --gateway 10.0.0", "invalid IP address syntax"),
        ("network create net1 --ip-range 10.0.0.0/33", "write an address and a prefix length"),
        ("network create net1 --vni 0", "is not a number from 1 to 16777215"),
        ("network create net1 --vni 16777216", "is not a number from 1 to 16777215"),
        ("network create net1 --mtu 67", "67 is not in 68..=65535"),
        ("network create net1 --mtu x", "invalid digit found in string"),
        ("network create net1 --label tier", "write it as in tier=db"),
        ("network inspect a/b", "it contains another character"),
        ("network rm ..", "it begins with something else"),
        ("connect net1 a/b", "give a named network namespace, an absolute path or pid:N"),
        ("connect net1 pid:0", "is not the id of a process"),
        ("connect net1 ct1 --name a/b", "it contains another character"),
        ("connect net1 ct1 --ip fd00::1", "invalid IPv4 address syntax"),
        ("connect net1 ct1 --ip6 10.0.0.1", "invalid IPv6 address syntax"),
        ("connect net1 ct1 --mac 01:00:5e:00:00:01", "is not a unicast address"),
        ("connect net1 ct1 --alias a/b", "it contains another character"),
        ("connect net1 ct1 --ifname an-interface-name", "it is longer than 15 bytes"),
        ("connect net1 ct1 --publish 80", "write [IP:]HOSTPORT:PORT[/tcp|udp]"),
        ("disconnect net1 a/b", "give a named network namespace"),
        ("endpoint ls --network a/b", "it contains another character"),
        ("endpoint ls --node a/b", "it contains another character"),
        ("endpoint inspect 0123", "is not 12 lower-case hexadecimal digits"),
        ("endpoint inspect ../../x", "is not 12 lower-case hexadecimal digits"),
        ("node inspect a/b", "it contains another character"),
        ("node drain a/b", "it contains another character"),
        ("node rm a/b", "it contains another character"),
        ("-o yaml network ls", "[possible values: table, json]"),
        ("completion tcsh", "[possible values: bash, elvish, fish, powershell, zsh]"),
    ] {
        let error = refused(line);
        assert!(error.to_string().contains(reason), "{line}: {error}");
        assert!(matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue), "{line}: {error}");
    }
}

#[test]
fn missing_and_unknown_arguments_are_refused() {
    for (line, kind) in [
        ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("network", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("nonsense", ErrorKind::InvalidSubcommand),
        ("network nonsense", ErrorKind::InvalidSubcommand),
        ("network create", ErrorKind::MissingRequiredArgument),
        ("network rm", ErrorKind::MissingRequiredArgument),
        ("network rm net1 net2", ErrorKind::UnknownArgument),
        ("network ls --all", ErrorKind::UnknownArgument),
        ("connect net1", ErrorKind::MissingRequiredArgument),
        ("connect net1 ct1 --ip 10.0.0.1 --ip 10.0.0.2", ErrorKind::ArgumentConflict),
        ("disconnect net1", ErrorKind::MissingRequiredArgument),
        ("endpoint inspect", ErrorKind::MissingRequiredArgument),
        ("node drain", ErrorKind::MissingRequiredArgument),
        ("completion", ErrorKind::MissingRequiredArgument),
        ("agent --nonsense", ErrorKind::UnknownArgument),
        ("status extra", ErrorKind::UnknownArgument),
    ] {
        let error = refused(line);
        assert_eq!(error.kind(), kind, "{line}: {error}");
        assert!(error.use_stderr(), "{line}");
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

fn parse(line: &str) -> Cli {
    Cli::try_parse_from(words(line)).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn refused(line: &str) -> clap::Error {
    Cli::try_parse_from(words(line)).expect_err(line)
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    std::iter::once("weft").chain(line.split_whitespace())
}

fn visit(command: &ClapCommand, each: &mut impl FnMut(&ClapCommand)) {
    each(command);
    for subcommand in command.get_subcommands() {
        visit(subcommand, each);
    }
}
