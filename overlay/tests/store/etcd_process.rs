//! A real etcd of a test's own, on loopback and in a temporary directory, ended with the test. With WEFT_STORE_PROGRAM that
//! program is started in its place, with a directory and an address, by tests that give etcd no options.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    net::TcpListener,
    path::Path,
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

/// For everything whose subject is not time: the machine may be busy.
pub(crate) const PATIENT: Timing = Timing {
    call: Duration::from_secs(60),
    connect: Duration::from_secs(10),
    keepalive: Duration::from_secs(10),
    keepalive_timeout: Duration::from_secs(5),
    suspension: Duration::from_secs(2),
};

#[derive(Debug)]
pub(crate) struct EtcdProcess {
    child: Mutex<Child>,
    launch: Launch,
    pem: Pem,
}

/// How an etcd is started, and started again.
#[derive(Debug)]
struct Launch {
    directory: TempDir,
    client_url: String,
    peer_url: String,
    arguments: Vec<String>,
}

impl EtcdProcess {
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self::start_with("http", &arguments, Pem::default()).await
    }

    /// One that speaks TLS, with what a client needs to be served by it.
    pub(crate) async fn start_encrypted(arguments: &[String], pem: Pem) -> Self {
        Self::start_with("https", arguments, pem).await
    }

    async fn start_with(scheme: &'static str, arguments: &[String], pem: Pem) -> Self {
        let mut last = String::new();
        // Another process may take a port between its choice and its use.
        for _ in 0..3 {
            let launch = Launch {
                directory: directory_in_memory(),
                client_url: format!("{scheme}://127.0.0.1:{}", free_port()),
                peer_url: format!("http://127.0.0.1:{}", free_port()),
                arguments: arguments.to_vec(),
            };
            let etcd = Self { child: Mutex::new(launch.spawn()), launch, pem: pem.clone() };
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
        let started = Arc::new(Self::start(&[]).await);
        *shared = Arc::downgrade(&started);
        started
    }

    pub(crate) fn url(&self) -> String {
        self.launch.client_url.clone()
    }

    pub(crate) async fn store(&self) -> EtcdStore {
        let options = EtcdOptions::parse(&[self.url()], self.pem.clone()).unwrap();
        EtcdStore::connect(options.with_timing(PATIENT)).await.unwrap()
    }

    pub(crate) fn kill(&self) {
        let mut child = self.child();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) async fn start_again(&self) {
        *self.child() = self.launch.spawn();
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
        for _ in 0..600 {
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

/// Durability is not tested here, and a busy disk takes seconds to write.
fn directory_in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

impl Launch {
    fn spawn(&self) -> Child {
        let Self { directory, client_url, arguments, .. } = self;
        let mut command = match std::env::var_os("WEFT_STORE_PROGRAM").filter(|_| arguments.is_empty()) {
            Some(program) => {
                let mut command = Command::new(program);
                command.arg(directory.path()).arg(client_url.trim_start_matches("http://"));
                command
            }
            None => self.etcd(),
        };
        let command = command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("these tests need etcd (package etcd-server), or the program in WEFT_STORE_PROGRAM")
    }

    fn etcd(&self) -> Command {
        let Self { directory, client_url, peer_url, arguments } = self;
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(directory.path())
            .args(["--name", "test", "--listen-client-urls", client_url, "--advertise-client-urls", client_url])
            .args(["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url])
            .args(["--initial-cluster", &format!("test={peer_url}"), "--logger", "zap", "--log-level", "error"])
            .args(["--experimental-watch-progress-notify-interval", "1s"])
            .args(arguments);
        command
    }
}
