//! The agent as a service: what it tells the service manager, and that it works in a service's sandbox.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, in helpers of tests too")]

use std::fs::{self, File};
use std::io;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use nix::unistd::Pid;
use tempfile::TempDir;
use weft_e2e::netns::NetnsName;
use weft_e2e::{Host, Lab, LabOptions, eventually};

/// Longest wait for something that takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(20);
/// Nobody is there.
const NO_STORE: &str = "http://127.0.0.1:1";

/// A service manager that starts one agent on h1, beside the lab's.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self { socket, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn start(&self, host: &Host, arguments: &[&str]) -> Service {
        let text = |name: &str| self.path(name).display().to_string();
        let mut command = host.command(&["weft", "agent", "--etcd", NO_STORE, "--node", "served"]).unwrap();
        command.args(["--underlay", "192.168.56.0/24", "--netns", "weft-served", "--socket", &text("weft.sock")]);
        command.args(["--state-dir", &text("state"), "--resolv-conf", &text("resolv.conf")]).args(arguments);
        command.env("NOTIFY_SOCKET", self.path("notify"));
        Service::start(host, &mut command, &self.path("log"))
    }

    #[track_caller]
    fn heard(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }
}

/// A process that ends with the test.
struct Service(Child);

impl Service {
    fn start(host: &Host, command: &mut Command, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Self(host.netns().spawn(command).unwrap())
    }

    fn terminate(&mut self) -> Option<i32> {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn remove_netns(name: &str) {
    name.parse::<NetnsName>().unwrap().ensure_removed().unwrap();
}

/// An engine's socket as its service manager holds it at boot: it takes connections, and the engine behind it is started
/// after us. The thread ends with the first connection, and says whether the plugin socket was there by then.
fn sleeping_engine(socket: &Path, plugin: PathBuf) -> JoinHandle<(UnixStream, io::Result<UnixStream>)> {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        let (asked, _) = listener.accept().unwrap();
        (asked, UnixStream::connect(plugin))
    })
}

#[test]
fn an_agent_is_ready_when_its_sockets_can_be_connected_to_though_neither_store_nor_engine_answers() {
    let lab = Lab::shared().unwrap();
    let manager = Manager::new();
    let (engine, plugins) = (manager.path("docker.sock"), manager.path("docker/plugins"));
    let plugin = plugins.join("weft.sock");
    let asked = sleeping_engine(&engine, plugin.clone());

    let docker = ["--docker", engine.to_str().unwrap(), "--docker-plugins", plugins.to_str().unwrap()];
    let mut service = manager.start(&lab.host(1), &docker);

    assert_eq!(manager.heard(), "READY=1\n");
    UnixStream::connect(manager.path("weft.sock")).unwrap();
    UnixStream::connect(&plugin).unwrap();
    let (_silent, plugin_then) = asked.join().unwrap();
    plugin_then.expect("the engine is asked for nothing before the plugin socket is there");
    let status = manager.heard();
    assert!(status.starts_with("STATUS=not registered: ") && status.contains("the store"), "{status}");
    assert_eq!(service.terminate(), Some(0));
    let last = std::iter::repeat_with(|| manager.heard()).find(|news| !news.starts_with("STATUS=")).unwrap();
    assert_eq!(last, "STOPPING=1\n");
    remove_netns("weft-served");
}

#[test]
fn an_agent_waits_neither_for_an_engine_that_is_not_there_nor_for_a_plugin_socket_that_cannot_be_made() {
    let lab = Lab::shared().unwrap();
    for (docker, plugins, logged) in
        [("auto", "absent/docker/plugins", ""), ("/absent.sock", "file/plugins", "plugin socket")]
    {
        let manager = Manager::new();
        fs::write(manager.path("file"), "").unwrap();
        let plugins = manager.path(plugins);

        let _service =
            manager.start(&lab.host(1), &["--docker", docker, "--docker-plugins", plugins.to_str().unwrap()]);

        assert_eq!(manager.heard(), "READY=1\n");
        UnixStream::connect(manager.path("weft.sock")).unwrap();
        assert!(!plugins.exists() && manager.log().contains(logged), "{}", manager.log());
    }
    remove_netns("weft-served");
}

#[test]
fn a_plugin_socket_is_made_as_soon_as_an_engine_appears() {
    let lab = Lab::shared().unwrap();
    let manager = Manager::new();
    let plugins = manager.path("docker/plugins");
    let service = manager.start(&lab.host(1), &["--docker", "auto", "--docker-plugins", plugins.to_str().unwrap()]);
    assert_eq!(manager.heard(), "READY=1\n");

    fs::create_dir(manager.path("docker")).unwrap();

    eventually(SOON, "the plugin socket", || {
        UnixStream::connect(plugins.join("weft.sock")).map(drop).map_err(|error| error.to_string())
    });
    drop(service);
    remove_netns("weft-served");
}

/// Starts the agent of h1 as the unit file does, as far as that goes without a service manager: mounts that the host does
/// not see, a read-only /usr and /etc but for /etc/netns, few capabilities, no new privileges.
fn start_sandboxed(lab: &Lab, capabilities: &str, log: &Path) -> Service {
    const MOUNTS: &str = "for d in /usr /etc; do mount --rbind $d $d; mount -o remount,bind,ro $d; done; exec \"$@\"";
    let host = lab.host(1);
    let etcd = lab.topology().unwrap().etcd_urls();
    let state = host.state_directory();
    let bounding = format!("--bounding-set=-all,{capabilities}");
    let mut command = host
        .command(&["unshare", "--mount", "--propagation", "slave", "sh", "-euc", MOUNTS, "sandbox", "setpriv"])
        .unwrap();
    command.args([&bounding, "--inh-caps=-all", "--no-new-privs", "weft", "agent", "--etcd", &etcd]);
    command.args(["--node", "h1", "--underlay", "192.168.56.0/24", "--netns", host.data_plane_netns().as_str()]);
    command.arg("--state-dir").arg(&state).arg("--socket").arg(host.socket());
    command.arg("--resolv-conf").arg(state.with_file_name("resolv.conf")).args(["--docker", "off"]);
    Service::start(&host, &mut command, log)
}

/// Those of the unit file.
const CAPABILITIES: &str = "+net_admin,+net_raw,+net_bind_service,+sys_admin,+sys_chroot,+sys_ptrace,+chown";

/// The mounts of a host under systemd are shared; those of the test are private to begin with.
fn share_mounts() {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>).unwrap();
}

#[track_caller]
fn wait_converged(host: &Host, log: &Path) {
    eventually(SOON, "a converged agent", || {
        let status = host.weft_json(&["status"]).map_err(|error| format!("{error:#}"))?;
        let log = || fs::read_to_string(log).unwrap_or_default();
        if status["converged"] == true { Ok(()) } else { Err(format!("{status}\n{}", log())) }
    });
}

#[test]
fn a_sandboxed_agent_does_everything_and_leaves_a_data_plane_that_outlives_it() {
    share_mounts();
    let lab = Lab::fresh(LabOptions::with_hosts(2)).unwrap();
    let host = lab.host(1);
    lab.stop("h1").unwrap();
    host.data_plane_netns().ensure_removed().unwrap();
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("log");

    let mut agent = start_sandboxed(&lab, CAPABILITIES, &log);
    wait_converged(&host, &log);
    lab.create_network("boxed", &["--subnet", "10.71.0.0/24"]).unwrap();
    // Containers that appear after the agent's start: a named one, and one that is only a process.
    lab.attach(1, "named1", "boxed", &["--publish", "18090:80"]).unwrap();
    lab.attach(2, "named2", "boxed", &[]).unwrap();
    let process = Command::new("unshare").args(["--net", "sleep", "1000"]).spawn().unwrap();
    let process = Service(process);
    let pid = format!("pid:{}", process.0.id());
    eventually(SOON, "a namespace of the process", || {
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let its = fs::read_link(format!("/proc/{}/ns/net", process.0.id())).map_err(|error| error.to_string())?;
        if its == own { Err("not yet".to_owned()) } else { Ok(()) }
    });
    host.weft(&["connect", "boxed", &pid, "--name", "proc1"]).unwrap();
    wait_converged(&host, &log);

    let reaches = |name: &str| lab.in_netns("named1", &["ping", "-c1", "-w5", name]).unwrap();
    reaches("named2");
    reaches("proc1");
    let resolver = fs::read_to_string("/etc/netns/named1/resolv.conf").unwrap();
    assert!(resolver.starts_with("# weft"), "{resolver}");
    let status = host.weft_json(&["status"]).unwrap();
    assert_eq!(status["errors"], serde_json::json!([]), "{status}");
    let names = lab.in_netns("named2", &["ping", "-c1", "-w5", "proc1"]).unwrap();
    assert!(names.contains("1 received"), "{names}");

    let before = host.data_plane_netns().observe_id();
    let found = statfs(&host.data_plane_netns().path()).unwrap().filesystem_type();
    assert_eq!(found, NSFS_MAGIC, "the host does not see the data plane's namespace");
    agent.0.kill().unwrap();
    agent.0.wait().unwrap();
    assert_eq!(host.data_plane_netns().observe_id(), before);
    let address = names.split(['(', ')']).nth(1).unwrap().to_owned();
    lab.in_netns("named2", &["ping", "-c1", "-w5", &address]).unwrap();

    let agent = start_sandboxed(&lab, CAPABILITIES, &log);
    wait_converged(&host, &log);
    assert_eq!(host.data_plane_netns().observe_id(), before);
    reaches("named2");
    let words = fs::read_to_string(&log).unwrap();
    for bad in ["WARN", "ERROR"] {
        assert!(!words.contains(bad), "{words}");
    }
    drop(agent);
}

#[test]
fn an_agent_that_may_not_enter_the_hosts_mounts_says_what_follows() {
    share_mounts();
    let lab = Lab::fresh(LabOptions::with_hosts(1)).unwrap();
    let host = lab.host(1);
    lab.stop("h1").unwrap();
    host.data_plane_netns().ensure_removed().unwrap();
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("log");

    let agent = start_sandboxed(&lab, "+net_admin,+net_raw,+net_bind_service,+sys_admin", &log);
    wait_converged(&host, &log);

    let words = fs::read_to_string(&log).unwrap();
    let warned = words.lines().any(|line| line.contains("WARN") && line.contains("CAP_SYS_PTRACE"));
    assert!(warned && words.contains("ends with the agent"), "{words}");
    let found = statfs(&host.data_plane_netns().path()).map(|found| found.filesystem_type());
    assert_ne!(found, Ok(NSFS_MAGIC), "the host sees the data plane's namespace");
    drop(agent);
}

#[test]
fn an_agent_that_lacks_a_capability_names_it_and_does_not_ask_to_be_started_again() {
    let lab = Lab::fresh(LabOptions::with_hosts(1)).unwrap();
    lab.stop("h1").unwrap();
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("log");

    let mut agent = start_sandboxed(&lab, "+net_admin,+net_bind_service,+sys_admin", &log);

    let began = Instant::now();
    let code = loop {
        if let Some(status) = agent.0.try_wait().unwrap() {
            break status.code();
        }
        assert!(began.elapsed() < SOON, "it runs");
        thread::sleep(Duration::from_millis(10));
    };
    let words = fs::read_to_string(&log).unwrap();
    assert_eq!(code, Some(77), "{words}");
    assert!(words.contains("the agent lacks CAP_NET_RAW;"), "{words}");
}
