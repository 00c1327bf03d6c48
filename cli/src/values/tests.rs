use super::*;

/// The message for each text that must be refused.
fn refusals<T: fmt::Debug, E: fmt::Display>(parse: impl Fn(&str) -> Result<T, E>, table: &[(&str, &str)]) {
    for (text, reason) in table {
        let message = parse(text).expect_err(text).to_string();
        assert!(message.contains(reason), "{text:?}: {message}");
        assert!(message.len() < 400, "{text:?}: {message}");
    }
}

#[test]
fn containers_are_names_absolute_paths_or_process_ids() {
    for good in ["ct1", "_x", "a.b", "web-1", "/proc/1/ns/net", "/run/netns/x", "pid:1", "pid:2147483647"] {
        assert_eq!(String::from(good.parse::<ContainerRef>().unwrap()), good);
    }

    refusals(
        str::parse::<ContainerRef>,
        &[
            ("", "it is empty"),
            (".", "it is a directory"),
            ("..", "it is a directory"),
            ("a/b", "it contains '/'; give a named network namespace, an absolute path or pid:N"),
            ("../x", "it contains '/'"),
            ("a\nb", "it contains a control character"),
            ("a\0b", "it contains a control character"),
            ("pid:", "not the id of a process"),
            ("pid:0", "not the id of a process"),
            ("pid:-1", "not the id of a process"),
            ("pid:+1", "not the id of a process"),
            ("pid:x", "not the id of a process"),
            ("pid:2147483648", "not the id of a process"),
            (&"x".repeat(300), "longer than 255 bytes"),
            (&format!("/{}", "x".repeat(4095)), "longer than 4095 bytes"),
        ],
    );
}

#[test]
fn subnets_carry_a_prefix_length_and_no_host_bits() {
    for good in ["10.40.0.0/24", "fd00:40::/64", "10.0.0.1/32"] {
        assert_eq!(parse_subnet(good).unwrap().to_string(), good);
    }

    refusals(
        parse_subnet,
        &[
            ("10.40.0.0", "has no prefix length"),
            ("fd00::", "has no prefix length"),
            ("10.40.0.1/24", "has host bits set; the subnet that contains it is 10.40.0.0/24"),
            ("fd00::1/64", "the subnet that contains it is fd00::/64"),
            ("10.40.0.0/33", "is malformed"),
            ("10.40.0/24", "is malformed"),
            ("10.40.0.0/", "is malformed"),
            ("net1", "is malformed"),
            ("", "is malformed"),
        ],
    );
}

#[test]
fn labels_have_a_key_and_any_value() {
    let parse = |text: &str| text.parse::<Label>().map(|label| (label.key, label.value));

    assert_eq!(parse("tier=db").unwrap(), ("tier".to_owned(), "db".to_owned()));
    assert_eq!(parse("a=").unwrap(), ("a".to_owned(), String::new()));
    assert_eq!(parse("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
    refusals(parse, &[("tier", "has no key and '='"), ("=db", "has no key and '='"), ("", "has no key and '='")]);
}

#[test]
fn published_ports_are_read_in_every_documented_form() {
    let tcp = |host_ip: Option<&str>, host_port, port| PublishedPort {
        protocol: Protocol::Tcp,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        host_port,
        port,
    };

    assert_eq!(parse_published_port("8080:80").unwrap(), tcp(None, 8080, 80));
    assert_eq!(parse_published_port("8080:80/tcp").unwrap(), tcp(None, 8080, 80));
    assert_eq!(
        parse_published_port("53:5353/udp").unwrap(),
        PublishedPort { protocol: Protocol::Udp, ..tcp(None, 53, 5353) }
    );
    assert_eq!(parse_published_port("127.0.0.1:8080:80").unwrap(), tcp(Some("127.0.0.1"), 8080, 80));
    assert_eq!(parse_published_port("[::1]:8080:80").unwrap(), tcp(Some("::1"), 8080, 80));
    refusals(
        parse_published_port,
        &[
            ("", "no ':' between two ports"),
            ("80", "no ':' between two ports"),
            ("8080:80/sctp", "neither tcp nor udp"),
            ("8080:80/", "neither tcp nor udp"),
            ("0:80", "a port is not 1 to 65535"),
            ("8080:0", "a port is not 1 to 65535"),
            ("8080:65536", "a port is not 1 to 65535"),
            ("+1:80", "a port is not 1 to 65535"),
            (":80", "a port is not 1 to 65535"),
            ("::1:8080:80", "the host's address is not an IP address"),
            ("[10.0.0.1]:8080:80", "the host's address is not an IP address"),
            ("host:8080:80", "the host's address is not an IP address"),
        ],
    );
}

#[test]
fn durations_are_a_number_and_a_unit() {
    for (text, seconds) in [("90s", 90), ("10m", 600), ("1h", 3600), ("2d", 172_800), ("0s", 0)] {
        assert_eq!(parse_duration(text).unwrap(), Duration::from_secs(seconds), "{text}");
    }

    let refused = ["", "s", "90", "1.5h", "-1s", "+1s", "1h30m", "1w", "1 h", "1é", "18446744073709551615d"];
    refusals(parse_duration, &refused.map(|text| (text, "write a whole number and a unit")));
}

#[test]
fn etcd_urls_have_scheme_host_and_port_only() {
    for (text, shown, tls) in [
        ("http://10.0.0.1:2379", "http://10.0.0.1:2379", false),
        ("https://etcd.example:2379/", "https://etcd.example:2379", true),
        ("http://[fd00::1]:2379", "http://[fd00::1]:2379", false),
    ] {
        let url: EtcdUrl = text.parse().unwrap();
        assert_eq!((url.to_string().as_str(), url.is_tls()), (shown, tls));
    }

    refusals(
        str::parse::<EtcdUrl>,
        &[
            ("", "it is not a URL"),
            ("http://", "it is not a URL"),
            ("a b", "it is not a URL"),
            ("10.0.0.1:2379", "does not begin with http://"),
            ("localhost", "does not begin with http://"),
            ("ftp://10.0.0.1:2379", "neither http nor https"),
            ("http://10.0.0.1", "it has no port"),
            ("http://10.0.0.1:0", "it has no port"),
            ("http://10.0.0.1:99999", "it has no port"),
            ("http://u:p@10.0.0.1:2379", "user and password are not supported"),
            ("http://10.0.0.1:2379/v3", "something follows the port"),
            ("http://10.0.0.1:2379/?a", "something follows the port"),
        ],
    );
}

#[test]
fn key_prefixes_begin_and_end_with_a_slash() {
    assert_eq!("/weft/v1/".parse::<KeyPrefix>().unwrap().to_string(), "/weft/v1/");
    refusals(
        str::parse::<KeyPrefix>,
        &[
            ("", "does not begin and end with '/'"),
            ("weft/", "does not begin and end with '/'"),
            ("/weft", "does not begin and end with '/'"),
            ("/", "something between two '/' is empty"),
            ("/a//b/", "something between two '/' is empty"),
            ("/a b/", "contains white space"),
            ("/ä/", "not ASCII"),
            (&format!("/{}/", "x".repeat(200)), "longer than 200 bytes"),
        ],
    );
}

#[test]
fn the_underlay_is_an_interface_a_subnet_or_an_address() {
    assert_eq!("eth1".parse::<Underlay>().unwrap(), Underlay::Interface("eth1".parse().unwrap()));
    assert_eq!("192.168.56.0/24".parse::<Underlay>().unwrap(), Underlay::Subnet("192.168.56.0/24".parse().unwrap()));
    assert_eq!("192.168.56.11".parse::<Underlay>().unwrap(), Underlay::Address("192.168.56.11".parse().unwrap()));
    assert_eq!("fd00::1".parse::<Underlay>().unwrap(), Underlay::Address("fd00::1".parse().unwrap()));
    refusals(
        str::parse::<Underlay>,
        &[
            ("", "neither an address, a subnet (CIDR) nor an interface's name"),
            ("a-name-that-is-too-long", "neither an address"),
            ("192.168.56.11/24", "the subnet that contains it is 192.168.56.0/24"),
            ("eth/0", "is malformed"),
        ],
    );
}

#[test]
fn namespace_names_are_plain_file_names() {
    assert_eq!("weft".parse::<NetnsName>().unwrap().to_string(), "weft");
    refusals(
        str::parse::<NetnsName>,
        &[("", "it is empty"), ("..", "it is a directory"), ("/run/netns/weft", "it contains '/'")],
    );
}

#[test]
fn a_group_is_looked_up_by_name_in_the_file_and_a_number_stands_for_itself() {
    const FILE: &str = "root:x:0:\nweftish:x:7:\n# weft:x:8:\nbroken\nweft:x:999:ann,bob\nodd:x:many:\n";
    let id = |text: &str| text.parse::<SocketGroup>().unwrap().id(FILE);

    assert_eq!(id("weft"), Ok(999));
    assert_eq!(id("root"), Ok(0));
    assert_eq!(id("4242"), Ok(4242));
    for absent in ["wef", "x", "broken", "odd", "ann"] {
        assert_eq!(id(absent), Err(ValueError::UnknownGroup { name: absent.to_owned() }));
    }
}

#[test]
fn what_no_group_can_be_called_is_refused() {
    for text in ["", "a:b", "a,b", "a b", "a\n", "4294967295", "99999999999"] {
        let error = text.parse::<SocketGroup>().unwrap_err();
        assert!(matches!(error, ValueError::SocketGroup { .. }), "{text:?}: {error}");
    }
}
