//! Agents, engines and the store that go away and come back.

use std::process::Command;
use std::thread;

use super::*;

/// Waits until the agent of a host answers and has nothing left to do.
#[track_caller]
fn converges(host: &Host) {
    eventually(SOON, &format!("the agent of {} has converged", host.name()), || {
        let output = host.try_weft(&["status", "--output", "json"]).unwrap();
        let status: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        if status["converged"] == true { Ok(()) } else { Err(format!("{output:?}")) }
    });
}

#[track_caller]
fn answers(host: &Host) {
    eventually(Duration::from_secs(60), &format!("the engine of {}", host.name()), || {
        let output = host.try_docker(&["ps"]).unwrap();
        if output.is_success() { Ok(()) } else { Err(output.stderr) }
    });
}

#[test]
fn container_starts_although_the_agent_restarts_meanwhile() {
    let lab = fresh();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "bumpy", &[]);
    h1.docker_run("steady", &["--net", "bumpy"]).unwrap();

    lab.stop("h2").unwrap();
    let running = thread::scope(|scope| {
        let run = scope.spawn(|| h2.docker_run("bumped", &["--net", "bumpy"]));
        lab.start("h2").unwrap();
        run.join().unwrap()
    });

    running.unwrap();
    reaches(&h2, "bumped", "steady");
    reaches(&h1, "steady", "bumped");
}

#[test]
fn what_was_removed_while_the_agent_was_away_is_collected() {
    let lab = fresh();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "lost", &["--subnet", "10.90.0.0/16"]);
    h1.docker_run("stays", &["--net", "lost"]).unwrap();
    h2.docker_run("goes", &["--net", "lost", "--ip", "10.90.1.1"]).unwrap();
    has_endpoints(&lab, "lost", &["stays", "goes"]);

    lab.kill("h2").unwrap();
    h2.docker(&["rm", "-f", "goes"]).unwrap();
    lab.start("h2").unwrap();

    has_endpoints(&lab, "lost", &["stays"]);
    converges(&h2);
    h2.docker_run("again", &["--net", "lost", "--ip", "10.90.1.1"]).unwrap();
    reaches(&h1, "stays", "again");
}

#[test]
fn containers_return_with_a_restarted_engine_and_are_collected_from_a_killed_one() {
    let lab = fresh();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "boots", &[]);
    h2.docker_run("witness", &["--net", "boots"]).unwrap();
    h1.docker_run("always", &["--net", "boots", "--restart", "always"]).unwrap();
    h1.docker_run("once", &["--net", "boots"]).unwrap();
    reaches(&h2, "witness", "always");

    lab.stop(&h1.docker_daemon()).unwrap();
    lab.start(&h1.docker_daemon()).unwrap();
    answers(&h1);
    reaches(&h2, "witness", "always");
    has_endpoints(&lab, "boots", &["witness", "always"]);
    h1.docker(&["start", "once"]).unwrap();
    lab.kill(&h1.docker_daemon()).unwrap();
    let shims = Command::new("sh").args(["-c", "cat /run/weft-lab/h1/docker/exec/containerd/containerd.pid"]).output();
    assert!(shims.unwrap().status.success());
    lab.start(&h1.docker_daemon()).unwrap();
    answers(&h1);

    has_endpoints(&lab, "boots", &["witness", "always"]);
    reaches(&h2, "witness", "always");
}

#[test]
fn live_restored_containers_keep_talking_and_are_removed_cleanly() {
    let options =
        LabOptions { docker_arguments: vec!["--live-restore".to_owned()], ..LabOptions::with_hosts(2).with_docker() };
    let lab = Lab::fresh(options).unwrap();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "lives", &[]);
    h1.docker_run("survivor", &["--net", "lives"]).unwrap();
    h2.docker_run("witness", &["--net", "lives"]).unwrap();
    let ip = address(&h1, "survivor", "lives");
    reaches(&h2, "witness", "survivor");

    lab.stop(&h1.docker_daemon()).unwrap();
    lab.kill("h1").unwrap();
    h2.docker_sh("witness", &format!("ping -c1 -w2 {ip}")).unwrap();
    lab.start("h1").unwrap();
    lab.start(&h1.docker_daemon()).unwrap();
    answers(&h1);

    reaches(&h2, "witness", "survivor");
    reaches(&h1, "survivor", "witness");
    h1.docker(&["rm", "-f", "survivor"]).unwrap();
    has_endpoints(&lab, "lives", &["witness"]);
}

#[test]
fn store_that_is_away_disturbs_nobody_and_refuses_in_time() {
    let lab = fresh();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "quiet", &[]);
    h1.docker_run("quiet1", &["--net", "quiet"]).unwrap();
    h2.docker_run("quiet2", &["--net", "quiet"]).unwrap();
    reaches(&h2, "quiet2", "quiet1");

    lab.pause("etcd").unwrap();
    let started = std::time::Instant::now();
    let network = h1.try_docker(&["network", "create", "-d", "weft", "none"]).unwrap();
    let container = h1.try_docker(&["run", "--rm", "--net", "quiet", "lab:net", "true"]).unwrap();
    let elapsed = started.elapsed();
    reaches(&h2, "quiet2", "quiet1");
    h1.docker(&["network", "ls"]).unwrap();
    lab.resume("etcd").unwrap();

    assert!(!network.is_success() && !container.is_success(), "{network:?} {container:?}");
    assert!(elapsed < Duration::from_secs(30), "{elapsed:?}");
    eventually(SOON, "a container starts again", || {
        let output = h1.try_docker(&["run", "--rm", "--net", "quiet", "lab:net", "true"]).unwrap();
        if output.is_success() { Ok(()) } else { Err(output.stderr) }
    });
    has_endpoints(&lab, "quiet", &["quiet1", "quiet2"]);
}
