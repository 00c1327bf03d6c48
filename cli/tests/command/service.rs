//! What a controller tells the service manager; the agent needs hosts for that, and is in the end-to-end tests.

use std::{
    fs,
    net::TcpStream,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{outcome, weft};

/// Longest wait for something that takes milliseconds.
const SOON: Duration = Duration::from_secs(20);

/// A service manager that listens.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self { socket, folder }
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn controller(&self, arguments: &[&str]) -> Command {
        let mut command = weft(["controller", "--name", "c1"]);
        command.args(arguments).env("NOTIFY_SOCKET", self.folder().join("notify"));
        command
    }

    fn heard(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("news of the service");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }
}

/// A daemon that ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn terminate(&mut self) -> Option<i32> {
        let sent = Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        assert!(sent.success());
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_controller_is_ready_when_its_store_can_be_connected_to() {
    let manager = Manager::new();
    let data = manager.folder().join("data");
    let arguments = ["--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()];

    let mut controller = Running::start(&mut manager.controller(&arguments));

    let news = manager.heard();
    let (ready, status) = news.trim_end().split_once('\n').unwrap();
    assert_eq!(ready, "READY=1");
    let address = status.strip_prefix("STATUS=serving the store at ").unwrap();
    TcpStream::connect(address).unwrap();
    assert_eq!(controller.terminate(), Some(0));
    assert_eq!(manager.heard(), "STOPPING=1\n");
}

#[test]
fn a_controller_that_cannot_serve_is_never_ready() {
    let manager = Manager::new();
    let file = |name: &str| manager.folder().join(name).display().to_string();
    fs::write(file("pem"), "not a certificate").unwrap();
    let (pem, data) = (file("pem"), file("data"));
    let arguments = ["--listen", "127.0.0.1:0", "--data-dir", &data, "--cert", &pem, "--key", &pem];

    let (code, _, stderr) = outcome(manager.controller(&arguments).output().unwrap());

    assert_eq!(code, 78, "{stderr}");
    manager.socket.set_nonblocking(true).unwrap();
    manager.socket.recv(&mut [0; 64]).unwrap_err();
}

#[test]
fn a_controller_on_an_etcd_is_ready_whether_that_answers_or_not() {
    let manager = Manager::new();

    let _controller = Running::start(&mut manager.controller(&["--etcd", "http://127.0.0.1:1"]));

    assert_eq!(manager.heard(), "READY=1\n");
}

#[test]
fn a_controller_without_a_service_manager_or_with_one_that_is_gone_runs_all_the_same() {
    let manager = Manager::new();
    let folder = manager.folder();
    for (number, socket) in [None, Some("/nowhere/notify")].into_iter().enumerate() {
        let data = folder.join(number.to_string());
        let mut command = weft(["controller", "--name", "c1", "--listen", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(&data).envs(socket.map(|socket| ("NOTIFY_SOCKET", socket)));
        let log = folder.join(format!("log{number}"));
        command.stderr(fs::File::create(&log).unwrap());

        let mut controller = Running(command.stdout(Stdio::null()).spawn().unwrap());

        let started = std::time::Instant::now();
        // The last thing that it does at its start.
        while !fs::read_to_string(&log).unwrap().contains("this controller leads") {
            assert!(started.elapsed() < SOON && controller.0.try_wait().unwrap().is_none(), "{socket:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(controller.terminate(), Some(0), "{socket:?}");
    }
}
