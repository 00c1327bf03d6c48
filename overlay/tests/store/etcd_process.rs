//! A real etcd of a test's own, on loopback and in a temporary directory, ended with the test.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tempfile::TempDir;
use weft_overlay::{
    keys::KeyRange,
    store::{
        ListRequest, Store as _,
        etcd::{EtcdOptions, EtcdStore, Pem, Timing},
    },
};

#[derive(Debug)]
pub(crate) struct EtcdProcess {
    child: Mutex<Child>,
    directory: TempDir,
    client_port: u16,
    peer_port: u16,
}

impl EtcdProcess {
    pub(crate) async fn start() -> Self {
        let mut last = String::new();
        // Another process may take a port between its choice and its use.
        for _ in 0..3 {
            let (client_port, peer_port) = (free_port(), free_port());
            let directory = TempDir::new().unwrap();
            let child = Mutex::new(spawn(&directory, client_port, peer_port));
            let etcd = Self { child, directory, client_port, peer_port };
            match etcd.ready().await {
                Ok(()) => return etcd,
                Err(error) => last = error,
            }
        }
        panic!("etcd does not start: {last}");
    }

    /// The one that tests share; it ends when the last of them lets go.
    pub(crate) async fn shared() -> Arc<Self> {
        static SHARED: tokio::sync::Mutex<Weak<EtcdProcess>> = tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let started = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&started);
        started
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    pub(crate) async fn store(&self) -> EtcdStore {
        connect(&[self.url()], Timing::default()).await
    }

    pub(crate) fn kill(&self) {
        let mut child = self.child();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) async fn start_again(&self) {
        *self.child() = spawn(&self.directory, self.client_port, self.peer_port);
        self.ready().await.unwrap();
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child().id().to_string();
        let status = Command::new("kill").args([format!("-{signal}"), pid]).status().unwrap();
        assert!(status.success(), "kill -{signal}: {status}");
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ready(&self) -> Result<(), String> {
        let store = self.store().await;
        let mut last = String::new();
        for _ in 0..100 {
            let range = KeyRange::prefix("ready");
            match store.list(ListRequest { range, limit: 1, revision: 0, linearizable: true }).await {
                Ok(_) => return Ok(()),
                Err(error) => last = error.to_string(),
            }
            if let Some(status) = self.child().try_wait().unwrap() {
                return Err(format!("it ended with {status}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(last)
    }
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        let mut child = self.child();
        if child.kill().is_ok() {
            child.wait().unwrap();
        }
    }
}

pub(crate) async fn connect(urls: &[String], timing: Timing) -> EtcdStore {
    let options = EtcdOptions::parse(urls, Pem::default()).unwrap();
    EtcdStore::connect(options.with_timing(timing)).await.unwrap()
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(directory: &TempDir, client_port: u16, peer_port: u16) -> Child {
    let client = format!("http://127.0.0.1:{client_port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    Command::new("etcd")
        .arg("--data-dir")
        .arg(directory.path())
        .args(["--name", "test", "--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("test={peer}"), "--logger", "zap", "--log-level", "error"])
        .args(["--experimental-watch-progress-notify-interval", "1s"])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("these tests need etcd: install the package etcd-server")
}
