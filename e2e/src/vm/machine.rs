//! One virtual machine: its disk, its process, and the way to run something on it.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{ACCELERATOR_VARIABLE, Parts};
use crate::command::CommandOutput;
use crate::eventually::wait_until;

/// Megabytes of memory: an idle engine leaves most of it free.
const MEMORY: &str = "1024";
/// A processor without anything that a program could ask for beyond x86-64, but for what makes emulation quicker.
const PROCESSOR: &str = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+pclmulqdq";
/// What QEMU may keep of translated code, in megabytes: its own default is a gigabyte a machine.
const TRANSLATED: &str = "tb-size=256";
/// Lines of the console that a failure shows.
const CONSOLE_LINES: usize = 25;

/// Where a machine is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Which one, from 1.
    pub(super) number: u8,
    /// Its address on the private network.
    pub(super) address: Ipv4Addr,
    /// Its end of the cable there.
    pub(super) tap: String,
}

/// A machine.
#[derive(Debug)]
pub(super) struct Machine {
    place: Place,
    image: PathBuf,
    run: PathBuf,
    process: Mutex<Child>,
}

impl Machine {
    /// Makes its disk and switches it on.
    pub(super) fn make(parts: &Parts, place: Place) -> Result<Self> {
        let disk = disk(&parts.run, place.number);
        let copy = ["--sparse=always", "--reflink=auto"];
        let base = parts.image.join("base.img");
        CommandOutput::of(Command::new("cp").args(copy).arg(&base).arg(&disk))?.success()?;
        let process = Mutex::new(switch_on(&parts.image, &parts.run, &place)?);
        Ok(Self { place, image: parts.image.clone(), run: parts.run.clone(), process })
    }

    pub(super) fn name(&self) -> String {
        format!("node{}", self.place.number)
    }

    /// Pulls the plug and puts it in again. What the guest had not synced is lost.
    pub(super) fn power_cycle(&self) -> Result<()> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.kill().context("ending QEMU")?;
        process.wait().context("ending QEMU")?;
        *process = switch_on(&self.image, &self.run, &self.place)?;
        Ok(())
    }

    /// Waits until it can be logged in to, and keeps a connection for what is to be run on it.
    pub(super) fn wait_booted(&self, deadline: Duration) -> Result<()> {
        match fs::remove_file(connection(&self.run, self.place.number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).context("forgetting a connection");
            }
            _ => {}
        }
        let booted = wait_until(deadline, &format!("{} booted", self.name()), || {
            let output = self.run("true", Duration::from_secs(20)).map_err(|error| format!("{error:#}"))?;
            if output.is_success() { Ok(()) } else { Err(output.stderr) }
        });
        booted.with_context(|| format!("end of its console:\n{}", self.console_tail()))?;
        let mut keep = ssh(&self.run, &self.image, self.place.number);
        keep.args(["-M", "-N", "-f"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        keep.status().context("keeping a connection")?;
        Ok(())
    }

    /// Runs a shell script on it as root.
    pub(super) fn run(&self, script: &str, deadline: Duration) -> Result<CommandOutput> {
        let mut command = ssh(&self.run, &self.image, self.place.number);
        let mut output = CommandOutput::within(command.arg(script), deadline)?;
        // How it got there is of no interest to the reader.
        output.line = format!("{}$ {script}", self.name());
        Ok(output)
    }

    /// Runs a file of this machine's on it, with `arguments`.
    pub(super) fn run_file(&self, file: &Path, arguments: &str, deadline: Duration) -> Result<CommandOutput> {
        let target = "/root/provision.sh";
        let content = File::open(file).with_context(|| format!("opening {}", file.display()))?;
        self.feed(&format!("cat >{target}"), content.into())?;
        self.run(&format!("sh {target} {arguments}"), deadline)
    }

    /// Copies what is in a folder.
    pub(super) fn copy_folder(&self, folder: &Path, target: &str) -> Result<()> {
        let mut archive = Command::new("tar")
            .arg("-C")
            .arg(folder)
            .args(["-c", "."])
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("packing {}", folder.display()))?;
        let packed = archive.stdout.take().context("packing")?;
        let fed = self.feed(&format!("mkdir -p {target} && tar -C {target} -x"), packed.into());
        archive.wait().with_context(|| format!("packing {}", folder.display()))?;
        fed
    }

    fn feed(&self, script: &str, input: Stdio) -> Result<()> {
        let mut command = ssh(&self.run, &self.image, self.place.number);
        let status = command.arg(script).stdin(input).status().context("starting ssh")?;
        anyhow::ensure!(status.success(), "`{script}` on {} ended with {status}", self.name());
        Ok(())
    }

    pub(super) fn console_tail(&self) -> String {
        crate::dump::tail(&console(&self.run, self.place.number), CONSOLE_LINES)
    }
}

impl Drop for Machine {
    #[expect(clippy::print_stderr, reason = "there is nobody to return it to")]
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = process.kill().and_then(|()| process.wait()) {
            eprintln!("weft-vm: ending node{}: {error}", self.place.number);
        }
        // The disk is large and of no further use.
        fs::remove_file(disk(&self.run, self.place.number)).ok();
    }
}

fn disk(run: &Path, number: u8) -> PathBuf {
    run.join(format!("node{number}.img"))
}

fn console(run: &Path, number: u8) -> PathBuf {
    run.join(format!("node{number}.console"))
}

fn connection(run: &Path, number: u8) -> PathBuf {
    run.join(format!("node{number}.ssh"))
}

/// The port of the loopback interface that leads to a machine's ssh.
fn port(number: u8) -> u16 {
    2200 + u16::from(number)
}

/// `ssh` with everything but what to run. A connection that was kept is used.
pub(super) fn ssh(run: &Path, image: &Path, number: u8) -> Command {
    let mut command = Command::new("ssh");
    command.arg("-q").arg("-i").arg(image.join("key")).args(["-p", &port(number).to_string()]);
    command.arg("-S").arg(connection(run, number));
    for option in [
        "BatchMode=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "ConnectTimeout=10",
        "ServerAliveInterval=10",
        "ServerAliveCountMax=6",
    ] {
        command.args(["-o", option]);
    }
    command.arg("root@127.0.0.1");
    command
}

fn switch_on(image: &Path, run: &Path, place: &Place) -> Result<Child> {
    let Place { number, address, tap } = place;
    let accelerator = std::env::var(ACCELERATOR_VARIABLE).unwrap_or_else(|_| "tcg".to_owned());
    let is_emulated = accelerator == "tcg";
    let accelerator = if is_emulated { format!("tcg,{TRANSLATED}") } else { accelerator };
    let processor = if is_emulated { PROCESSOR } else { "host" };
    let kernel = format!(
        "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=false net.ifnames=0 nokaslr nopti mitigations=off \
         systemd.hostname=node{number} ip={address}:::255.255.255.0::eth1:off"
    );
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-smp", "1", "-m", MEMORY])
        .args(["-name", &format!("node{number}"), "-accel", &accelerator, "-cpu", processor])
        .arg("-kernel")
        .arg(image.join("vmlinuz"))
        .arg("-initrd")
        .arg(image.join("initrd.img"))
        .args(["-append", &kernel, "-device", "virtio-rng-pci"])
        .args([
            "-drive",
            &format!("file={},format=raw,if=virtio,cache=unsafe,discard=unmap", disk(run, *number).display()),
        ])
        // The machine's own name in the NAT is 10.0.2.15 for all of them; nothing gets out.
        .args(["-netdev", &format!("user,id=nat,restrict=on,hostfwd=tcp:127.0.0.1:{}-:22", port(*number))])
        .args(["-device", &format!("virtio-net-pci,netdev=nat,mac=52:54:00:aa:00:{number:02x},romfile=")])
        .args(["-netdev", &format!("tap,id=lan,ifname={tap},script=no,downscript=no")])
        .args(["-device", &format!("virtio-net-pci,netdev=lan,mac=52:54:00:bb:00:{number:02x},romfile=")])
        .args(["-serial", &format!("file:{}", console(run, *number).display())]);
    let errors = File::options().create(true).append(true).open(run.join("qemu.log")).context("opening QEMU's log")?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
    command.spawn().context("starting qemu-system-x86_64")
}
