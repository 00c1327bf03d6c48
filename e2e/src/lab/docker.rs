//! Docker engines of the lab: a real dockerd on every host, with an image that needs no registry.
//!
//! Each engine has a mount namespace of its own in which `/run/docker` is the host's, because the engine looks for plugins
//! nowhere else. Its execution root is shared with the lab, so that the host's agent sees the containers' namespaces where
//! the engine says they are, as on a real host.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;

use super::state::{DaemonRecord, LabState};
use super::{Host, host, log_path};
use crate::command::CommandOutput;
use crate::netns::NetnsId;
use crate::process::{self, DaemonSpec, ProcessId};
use crate::topology::{HostId, Topology};

/// The image in every engine: busybox, and nothing else.
pub const DOCKER_IMAGE: &str = "lab:net";

/// Debian's client speaks what the engine speaks.
const CLIENT: &str = "/usr/bin/docker";
/// Starting containers on a busy machine takes seconds.
const CLIENT_DEADLINE: Duration = Duration::from_secs(120);
/// An engine ends its containers before itself.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Makes `/run/docker` and the resolver the host's own, then becomes the engine. Only what is mounted over is made
/// private, so that nothing spreads to the machine while the execution root stays shared.
const BEGIN: &str = r#"
set -eu
directory=$1
shift
for path in /run /etc/resolv.conf; do
    mount --make-private "$(findmnt -n -o TARGET -T "$path" | tail -n 1)"
done
mkdir -p /run/docker
mount --bind "$directory/run" /run/docker
mount --bind "${directory%/docker}/resolv.conf" "$(readlink -f /etc/resolv.conf)"
exec dockerd "$@"
"#;

/// The name of a host's engine, for faults.
pub(super) fn daemon_name(host: HostId) -> String {
    format!("docker-{host}")
}

/// The engine's socket.
pub(super) fn socket(host: HostId) -> PathBuf {
    directory(host).join("docker.sock")
}

/// Where the engine finds plugins, as its host's agent sees it.
pub(super) fn plugins(host: HostId) -> PathBuf {
    directory(host).join("run/plugins")
}

fn directory(host: HostId) -> PathBuf {
    host::directory(host).join("docker")
}

fn execution_root(host: HostId) -> PathBuf {
    directory(host).join("exec")
}

pub(super) fn daemon(state: &LabState, id: HostId) -> DaemonRecord {
    let directory = directory(id);
    let path = |file: &str| directory.join(file).display().to_string();
    let before =
        ["--mount", "--propagation", "unchanged", "sh", "-c", BEGIN, "dockerd", &directory.display().to_string()]
            .map(str::to_owned);
    let arguments = [
        ("--host", format!("unix://{}", socket(id).display())),
        ("--data-root", path("data")),
        ("--exec-root", path("exec")),
        ("--pidfile", path("pid")),
        ("--storage-driver", "vfs".to_owned()),
        ("--log-level", "info".to_owned()),
    ];
    let arguments = arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    let name = daemon_name(id);
    let spec = DaemonSpec {
        program: "unshare".into(),
        arguments: before.into_iter().chain(arguments).chain(state.options.docker_arguments.iter().cloned()).collect(),
        environment: std::collections::BTreeMap::new(),
        netns: id.netns(),
        log: log_path(&name),
    };
    DaemonRecord { name, spec, process: None }
}

/// Makes what the engine needs before it is started.
pub(super) fn prepare(id: HostId) -> Result<()> {
    let root = execution_root(id);
    for path in [plugins(id), root.clone(), directory(id).join("data")] {
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    }
    let none = None::<&str>;
    mount(Some(&root), &root, none, MsFlags::MS_BIND, none).with_context(|| format!("mounting {}", root.display()))?;
    mount(none, &root, none, MsFlags::MS_SHARED, none).with_context(|| format!("sharing {}", root.display()))
}

/// Whether the engine answers.
pub(super) fn observe(host: &Host) -> Result<(), String> {
    let answer = host.try_docker(&["version", "--format", "{{.Server.Version}}"]);
    answer.and_then(CommandOutput::success).map(drop).map_err(|error| format!("{error:#}"))
}

/// Gives the engine the image.
pub(super) fn import_image(host: &Host) -> Result<()> {
    let root = directory(host.id()).join("image");
    make_root(&root)?;
    let mut archive = Command::new("tar")
        .arg("-C")
        .arg(&root)
        .args(["-c", "."])
        .stdout(Stdio::piped())
        .spawn()
        .context("packing the image")?;
    let packed = archive.stdout.take().context("packing the image")?;
    let output = docker_command(host.id(), &["import", "-", DOCKER_IMAGE]).stdin(packed).output();
    archive.wait().context("packing the image")?;
    let output = output.context("importing the image")?;
    if !output.status.success() {
        bail!("importing the image: {}", String::from_utf8_lossy(&output.stderr));
    }
    fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))
}

fn make_root(root: &Path) -> Result<()> {
    let failed = |what: &str| format!("making the image: {what}");
    for directory in ["bin", "tmp", "etc", "proc", "sys", "www"] {
        fs::create_dir_all(root.join(directory)).with_context(|| failed(directory))?;
    }
    let listed = CommandOutput::of(Command::new("busybox").arg("--list"))?.success()?;
    let found = CommandOutput::of(Command::new("sh").args(["-c", "command -v busybox"]))?.success()?;
    let busybox = root.join("bin/busybox");
    fs::copy(found.trim(), &busybox).with_context(|| failed("busybox"))?;
    fs::set_permissions(&busybox, fs::Permissions::from_mode(0o755)).with_context(|| failed("busybox"))?;
    for applet in listed.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).with_context(|| failed(applet))?;
    }
    Ok(())
}

pub(super) fn docker_command(id: HostId, words: &[&str]) -> Command {
    let mut command = Command::new(CLIENT);
    command.env("DOCKER_HOST", format!("unix://{}", socket(id).display())).args(words);
    command
}

/// Docker, as its user types it.
impl Host {
    /// Runs `docker` against this host's engine; its standard output.
    ///
    /// # Errors
    /// When it fails.
    pub fn docker(&self, words: &[&str]) -> Result<String> {
        self.try_docker(words)?.success()
    }

    /// Like [`Self::docker`], with the failure as a value, for tests of refusals.
    ///
    /// # Errors
    /// When it cannot be run, or has not ended after two minutes.
    pub fn try_docker(&self, words: &[&str]) -> Result<CommandOutput> {
        CommandOutput::within(&mut docker_command(self.id(), words), CLIENT_DEADLINE)
    }

    /// Runs a container that sleeps, with these options before the image.
    ///
    /// # Errors
    /// When it does not start.
    pub fn docker_run(&self, name: &str, options: &[&str]) -> Result<String> {
        let words = [&["run", "-d", "--init", "--name", name], options, &[DOCKER_IMAGE, "sleep", "100000"]].concat();
        self.docker(&words)
    }

    /// Runs a shell command in a container; its standard output.
    ///
    /// # Errors
    /// When it fails.
    pub fn docker_sh(&self, container: &str, script: &str) -> Result<String> {
        self.docker(&["exec", container, "sh", "-c", script])
    }

    /// The socket of this host's engine.
    #[must_use]
    pub fn docker_socket(&self) -> PathBuf {
        socket(self.id())
    }

    /// The name of this host's engine, for [`Lab::kill`](crate::Lab::kill) and the other faults.
    #[must_use]
    pub fn docker_daemon(&self) -> String {
        daemon_name(self.id())
    }
}

/// Ends the engines of a lab with all their containers, and takes away their mounts.
pub(super) fn take_down(state: &LabState, topology: &Topology) -> Result<()> {
    if !state.options.docker {
        return Ok(());
    }
    let mut engines = Vec::new();
    for id in &topology.hosts {
        let name = daemon_name(*id);
        engines.extend(state.daemons.iter().filter(|daemon| daemon.name == name).filter_map(|daemon| daemon.process));
    }
    for engine in &engines {
        engine.signal(Signal::SIGTERM)?;
    }
    for engine in &engines {
        if engine.wait_stopped(STOP_DEADLINE).is_err() {
            engine.signal(Signal::SIGKILL)?;
        }
    }
    for id in &topology.hosts {
        end_containers(*id)?;
        unmount_below(&execution_root(*id))?;
    }
    match fs::remove_dir("/run/docker") {
        // Somebody else's, if it is not empty.
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty | ErrorKind::ResourceBusy) =>
        {
            Ok(())
        }
        removed => removed.context("removing /run/docker"),
    }
}

/// Takes away what an engine that was killed keeps running or mounted, as when its machine loses its power.
pub(super) fn lose_power(id: HostId) -> Result<()> {
    end_containers(id)?;
    let root = execution_root(id);
    unmount_below(&root)?;
    fs::remove_dir_all(directory(id).join("run")).context("emptying /run/docker")?;
    fs::remove_dir_all(&root).with_context(|| format!("emptying {}", root.display()))?;
    let pid = directory(id).join("pid");
    fs::remove_file(&pid).with_context(|| format!("removing {}", pid.display()))?;
    prepare(id)
}

/// Containers outlive an engine that was killed.
fn end_containers(id: HostId) -> Result<()> {
    let Ok(entries) = fs::read_dir(execution_root(id).join("netns")) else { return Ok(()) };
    let namespaces: BTreeSet<NetnsId> = entries.flatten().filter_map(|entry| NetnsId::of(&entry.path())).collect();
    let own = id.netns().observe_id();
    let inside = namespaces.into_iter().filter(|netns| Some(*netns) != own).collect();
    let processes: Vec<ProcessId> = process::observe_inside(&inside);
    for process in &processes {
        process.signal(Signal::SIGKILL)?;
    }
    processes.iter().try_for_each(|process| process.wait_stopped(STOP_DEADLINE))
}

fn unmount_below(root: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading mountinfo")?;
    let points =
        mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| Path::new(point).starts_with(root));
    let mut points: Vec<&str> = points.collect();
    points.reverse();
    for point in points {
        umount2(point, MntFlags::MNT_DETACH).with_context(|| format!("unmounting {point}"))?;
    }
    Ok(())
}
