//! Servers to test: the embedded store in this process or in one of its own, and a real etcd.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use etcd_client::Client;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use weft_embedded_store::{EmbeddedStore, StoreOptions};

const DEADLINE: Duration = Duration::from_secs(20);

/// A directory in memory: these tests compare behaviour, not disks.
pub(crate) fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("weft-store-").tempdir_in("/dev/shm").unwrap()
}

/// A port that is free and stays so until it is used: it is none of those that the kernel gives to outgoing connections,
/// of which tests beside this one make many.
pub(crate) fn free_port() -> u16 {
    loop {
        let chance = RandomState::new().build_hasher().finish();
        let port = 10_000 + u16::try_from(chance % 20_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The embedded store in this process.
pub(crate) struct Ours {
    pub(crate) url: String,
    pub(crate) directory: TempDir,
    serving: JoinHandle<()>,
}

impl Ours {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut StoreOptions)) -> Self {
        let directory = scratch();
        let mut options = StoreOptions::new(directory.path(), "127.0.0.1:0".parse().unwrap());
        change(&mut options);
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let store = EmbeddedStore::open(options).await.unwrap();
        let url = format!("{scheme}://{}", store.address().unwrap());
        let serving = tokio::spawn(async move { store.serve(std::future::pending()).await.unwrap() });
        Self { url, directory, serving }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect([&self.url], None).await.unwrap()
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A child that is killed with its handle.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) child: Child,
    _directory: Option<TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    pub(crate) fn etcd() -> Self {
        let directory = scratch();
        let (client, peer) = (free_port(), free_port());
        let url = format!("http://127.0.0.1:{client}");
        let child = Command::new("etcd")
            .arg(format!("--data-dir={}", directory.path().join("data").display()))
            .arg(format!("--listen-client-urls={url}"))
            .arg(format!("--advertise-client-urls={url}"))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
            .args(["--logger=zap", "--log-level=error", "--log-outputs=stderr"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed (package etcd-server)");
        Self { url, child, _directory: Some(directory) }
    }

    /// The embedded store in a process of its own, with a fault of the name put in.
    pub(crate) fn ours(directory: &Path, fault: Option<&str>) -> Self {
        let mut command = Command::new(program());
        command.arg(directory).arg("127.0.0.1:0").stdout(Stdio::piped());
        if let Some(fault) = fault {
            command.env("WEFT_STORE_FAULT", fault);
        }
        let mut child = command.spawn().unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        assert!(!address.is_empty(), "the store did not start");
        Self { url: format!("http://{}", address.trim()), child, _directory: None }
    }

    pub(crate) async fn client(&self) -> Client {
        let started = Instant::now();
        loop {
            let mut client = Client::connect([&self.url], None).await.unwrap();
            match client.status().await {
                Ok(_) => return client,
                Err(error) => {
                    assert!(started.elapsed() < DEADLINE, "{} does not answer: {error}", self.url);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

pub(crate) fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_weft-store-serve"))
}
