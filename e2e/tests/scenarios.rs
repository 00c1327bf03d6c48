//! The scenarios that hold for every kind of cluster, on network namespaces; `make vm-test` runs the same on machines.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test")]

use std::sync::{Mutex, PoisonError};

use weft_e2e::cluster::{Cluster, LabCluster};
use weft_e2e::scenario::{ALL, Scenario};

/// One cluster at a time, kept for the next scenario that needs as many nodes.
static CLUSTER: Mutex<Option<LabCluster>> = Mutex::new(None);

#[track_caller]
fn holds(name: &str) {
    let scenario = Scenario::find(name).unwrap();
    let mut guard = CLUSTER.lock().unwrap_or_else(PoisonError::into_inner);
    if guard.as_ref().is_none_or(|cluster| cluster.nodes() != scenario.nodes) {
        drop(guard.take());
        *guard = Some(LabCluster::up(scenario.nodes).unwrap());
    }
    let cluster = guard.as_ref().unwrap();
    if let Err(error) = scenario.run(cluster) {
        let state = cluster.describe();
        drop(guard.take());
        panic!("{name}: {error:#}\n{state}");
    }
}

macro_rules! scenarios {
    ($($name:ident),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                holds(stringify!($name));
            }
        )+

        #[test]
        fn every_scenario_is_run_here() {
            let here = [$(stringify!($name)),+];
            for scenario in ALL {
                assert!(here.contains(&scenario.name), "{} is not run", scenario.name);
            }
        }
    };
}

scenarios!(
    containers_on_two_hosts_ping_by_name,
    second_network_comes_and_goes_live,
    published_port_is_reached_from_the_other_host,
    agent_upgraded_under_traffic_loses_nothing,
    delay_and_loss_are_survived,
    small_mtu_with_icmp_filtered_is_no_black_hole,
    reloads_of_firewall_and_engine_are_repaired,
    node_without_power_brings_its_containers_back,
    third_node_is_one_of_the_network,
    cut_network_heals,
);
