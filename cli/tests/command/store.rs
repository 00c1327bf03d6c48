//! `weft store` with a store that `weft controller` serves, and a real etcd to move to.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    net::TcpListener,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{run, weft};

const DEADLINE: Duration = Duration::from_secs(20);

/// A child that is killed with its handle.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Server {
    fn controller(directory: &TempDir) -> Self {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let mut command = weft(["controller", "--listen", &listen, "--data-dir", &path(directory, "")]);
        Self::start(&mut command, port)
    }

    fn etcd(directory: &TempDir) -> Self {
        let (port, peers) = (free_port(), free_port());
        let mut command = Command::new("etcd");
        command.arg(format!("--data-dir={}", path(directory, "data")));
        command.arg(format!("--listen-client-urls=http://127.0.0.1:{port}"));
        command.arg(format!("--advertise-client-urls=http://127.0.0.1:{port}"));
        command.arg(format!("--listen-peer-urls=http://127.0.0.1:{peers}"));
        Self::start(&mut command, port)
    }

    fn start(command: &mut Command, port: u16) -> Self {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { child, port };
        let began = Instant::now();
        while !server.etcdctl(&["endpoint", "health"]).contains("is healthy") {
            assert!(began.elapsed() < DEADLINE, "the store at {port} does not answer");
            thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn etcdctl(&self, words: &[&str]) -> String {
        let endpoint = format!("127.0.0.1:{}", self.port);
        let mut command = Command::new("etcdctl");
        let output = command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint]).args(words).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}

/// A port that is free and stays so until it is used: it is none of those that the kernel gives to outgoing connections,
/// of which tests beside this one make many.
fn free_port() -> u16 {
    loop {
        let chance = RandomState::new().build_hasher().finish();
        let port = 10_000 + u16::try_from(chance % 20_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn path(directory: &TempDir, file: &str) -> String {
    directory.path().join(file).display().to_string()
}

fn shown(directory: &str) -> Value {
    let (code, stdout, stderr) = run(["store", "status", "--data-dir", directory, "-o", "json"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn a_store_is_copied_while_it_is_used_and_put_back() {
    let directory = TempDir::new().unwrap();
    let server = Server::controller(&directory);
    server.etcdctl(&["put", "/weft/v1/a", "1"]);
    let (data, file, other) = (path(&directory, ""), path(&directory, "backup"), path(&directory, "other"));

    let (code, stdout, _) = run(["store", "backup", &file, "--data-dir", &data]);
    assert!(code == 0 && stdout.contains("keys at revision"), "{stdout}");
    let (code, _, stderr) = run(["store", "restore", &file, "--data-dir", &data]);
    assert!(code == 1 && stderr.contains("is in use by another process"), "{stderr}");
    let (code, _, stderr) = run(["store", "restore", &file, "--data-dir", &other]);
    assert_eq!((code, stderr.as_str()), (0, ""));

    let (before, after) = (shown(&data), shown(&other));
    assert!(after["revision"].as_i64().unwrap() >= 1_000_000_000);
    assert_ne!(before["cluster_id"], after["cluster_id"]);
    let (code, _, stderr) = run(["store", "restore", &file, "--data-dir", &other]);
    assert!(code == 1 && stderr.contains("exists and is left as it is"), "{stderr}");
}

#[test]
fn what_is_no_store_is_refused() {
    let directory = TempDir::new().unwrap();

    let (code, _, stderr) = run(["store", "status", "--data-dir", &path(&directory, "none")]);

    assert!(code == 1 && stderr.contains("there is no store in this directory; name one with --data-dir"), "{stderr}");
}

#[test]
fn what_is_no_backup_is_not_put_back() {
    let directory = TempDir::new().unwrap();
    let (missing, garbage, target) =
        (path(&directory, "none"), path(&directory, "garbage"), path(&directory, "target"));
    std::fs::write(&garbage, [b'x'; 5000]).unwrap();

    for (file, reason) in [(&missing, "there is no such file"), (&garbage, "file is not a database")] {
        let (code, _, stderr) = run(["store", "restore", file, "--data-dir", &target]);

        assert!(code == 1 && stderr.contains(&format!("{file} is no sound backup ({reason}")), "{stderr}");
        assert!(!directory.path().join("target").exists());
    }
}

#[test]
fn what_may_come_right_by_itself_has_its_own_exit_code() {
    let directory = TempDir::new().unwrap();
    let server = Server::controller(&directory);
    let (data, other) = (path(&directory, ""), path(&directory, "other"));
    let (taken, free) = (format!("127.0.0.1:{}", server.port), format!("127.0.0.1:{}", free_port()));

    let (code, _, stderr) = run(["controller", "--listen", &taken, "--data-dir", &other]);
    assert!(code == 69 && stderr.contains("cannot listen at"), "{code} {stderr}");
    let (code, _, stderr) = run(["controller", "--listen", &free, "--data-dir", &data]);
    assert!(code == 69 && stderr.contains("is in use by another process"), "{code} {stderr}");
    let (code, _, stderr) = run(["store", "export", "--to", &format!("http://{free}"), "--data-dir", &data]);
    assert!(code == 69 && stderr.contains("did not answer"), "{code} {stderr}");
}

#[test]
fn keys_move_to_etcd_and_back() {
    let directories = [0; 3].map(|_| TempDir::new().unwrap());
    let (controller, etcd) = (Server::controller(&directories[0]), Server::etcd(&directories[1]));
    for number in 0..250 {
        controller.etcdctl(&["put", &format!("/weft/v1/key/{number:03}"), &number.to_string()]);
    }
    controller.etcdctl(&["put", "/elsewhere", "1"]);
    let granted = controller.etcdctl(&["lease", "grant", "600"]);
    let lease = granted.split_whitespace().nth(1).unwrap();
    controller.etcdctl(&["put", "/elsewhere/leased", "1", "--lease", lease]);
    let data = path(&directories[0], "");

    let (code, stdout, stderr) = run(["store", "export", "--to", &etcd.url(), "--data-dir", &data]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    // The controller's candidacy hangs on a lease.
    assert!(stdout.contains("251 keys written, 1 on leases left behind"), "{stdout}");
    let listed = etcd.etcdctl(&["get", "--prefix", "/"]);
    assert_eq!(
        listed,
        controller.etcdctl(&["get", "--prefix", "/weft/v1/key/"])
            + &controller.etcdctl(&["get", "/weft/v1/meta/schema"])
    );
    let (code, _, stderr) = run(["store", "export", "--to", &etcd.url(), "--data-dir", &data]);
    assert!(code == 1 && stderr.contains("has keys of a cluster already"), "{stderr}");

    let back = Server::etcd(&directories[2]);
    let (code, _, stderr) = run(["store", "export", "--from", &etcd.url(), "--to", &back.url()]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(back.etcdctl(&["get", "--prefix", "/"]), listed);
}
