//! Probes see what is there and miss what is not, on a lab without agents.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, in helpers of tests too")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use weft_e2e::topology::HostId;
use weft_e2e::traffic::{Asker, addresses_of};
use weft_e2e::{Lab, LabOptions};

const SOON: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::from_millis(300);

fn underlay(host: u8) -> Ipv4Addr {
    HostId::new(host).unwrap().underlay_address()
}

#[test]
fn asker_gets_the_first_reply_of_a_neighbour_and_waits_for_one_that_comes_later() {
    let lab = Lab::up(LabOptions::with_hosts(2).without_agents()).unwrap();
    let asker = Asker::open("h1", "eth1").unwrap();
    let began = Instant::now();
    let at = asker.first_reply(underlay(2), SOON).unwrap();
    assert!(at >= began && at <= Instant::now());

    let error = asker.first_reply(underlay(77), NEVER).unwrap_err();
    assert!(error.to_string().contains("ARP reply of 192.168.56.87"), "{error:#}");
    lab.host(2).exec(&["ip", "address", "add", "192.168.56.87/24", "dev", "eth1"]).unwrap();

    asker.first_reply(underlay(77), SOON).unwrap();
}

#[test]
fn addresses_are_listed_without_link_local_ones() {
    let _lab = Lab::up(LabOptions::with_hosts(1).without_agents()).unwrap();

    let addresses = addresses_of("h1", "eth0").unwrap();

    let nat: [IpAddr; 2] = ["10.0.2.15".parse().unwrap(), "fd17:625c:f037:2::15".parse().unwrap()];
    assert_eq!(addresses, nat);
    assert!(addresses_of("h1", "eth7").is_err());
}
