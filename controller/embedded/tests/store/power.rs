//! Loss of power: only what was synced to the disk is there afterwards.
//!
//! The store is on a file system of its own in a file. What that file holds at some moment is what a disk would: writes
//! that are not synced are not in it yet. It is copied while the server works, and the copy is started.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use etcd_client::{Client, GetOptions};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::servers::{Server, scratch};

/// A file system in a file, mounted while this lives.
struct Disk {
    mount: PathBuf,
}

impl Disk {
    fn mount(image: &Path, mount: PathBuf) -> Self {
        fs::create_dir_all(&mount).unwrap();
        run("mount", &["-o", "loop", image.to_str().unwrap(), mount.to_str().unwrap()]);
        Self { mount }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &[self.mount.to_str().unwrap()]);
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Cuts the power several times under writers; what was acknowledged before each cut must be there.
async fn check(cuts: u32, fault: Option<&str>) -> Result<usize, String> {
    let scratch: TempDir = scratch();
    let image = scratch.path().join("disk");
    fs::File::create(&image).unwrap().set_len(48 << 20).unwrap();
    run("mkfs.ext4", &["-q", image.to_str().unwrap()]);
    let mut total = 0;
    for cut in 0..cuts {
        let after = scratch.path().join("after");
        let acknowledged = {
            let disk = Disk::mount(&image, scratch.path().join("before"));
            let server = Server::ours(&disk.mount.join("store"), fault);
            let acknowledged = Arc::new(Mutex::new(Vec::new()));
            let mut writers = Vec::new();
            for writer in 0..4 {
                writers.push(tokio::spawn(write(server.client().await, cut, writer, Arc::clone(&acknowledged))));
            }
            tokio::time::sleep(Duration::from_millis(200 + 37 * u64::from(cut))).await;
            // Nobody is told anything any more, and then the disk is as it is.
            let pid = Pid::from_raw(i32::try_from(server.child.id()).unwrap());
            kill(pid, Signal::SIGSTOP).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            let acknowledged = acknowledged.lock().unwrap().clone();
            fs::copy(&image, &after).unwrap();
            drop(server);
            for writer in writers {
                writer.await.map_err(|error| error.to_string())?;
            }
            acknowledged
        };
        total += acknowledged.len();
        check_after(&after, &scratch.path().join("mounted"), &acknowledged).await?;
        fs::rename(&after, &image).unwrap();
    }
    Ok(total)
}

async fn check_after(image: &Path, mount: &Path, acknowledged: &[(String, i64)]) -> Result<(), String> {
    let disk = Disk::mount(image, mount.to_owned());
    let server = Server::ours(&disk.mount.join("store"), None);
    let mut client = server.client().await;
    let got = client.get("p", Some(GetOptions::new().with_prefix().with_keys_only())).await.unwrap();
    let keys: std::collections::BTreeMap<_, _> =
        got.kvs().iter().map(|kv| (kv.key_str().unwrap().to_owned(), kv.mod_revision())).collect();
    match acknowledged.iter().find(|(key, at)| keys.get(key) != Some(at)) {
        Some((key, at)) => Err(format!("{key} was acknowledged at {at}, and is {:?}", keys.get(key))),
        None => Ok(()),
    }
}

async fn write(mut client: Client, cut: u32, writer: u32, acknowledged: Arc<Mutex<Vec<(String, i64)>>>) {
    for number in 0.. {
        let key = format!("p{cut}/{writer}/{number:05}");
        let Ok(done) = client.put(key.clone(), vec![b'x'; 200], None).await else { return };
        acknowledged.lock().unwrap().push((key, done.header().unwrap().revision()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_with_the_power() {
    let acknowledged = check(6, None).await.unwrap();

    assert!(acknowledged > 200, "only {acknowledged} writes were acknowledged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syncing_that_is_left_to_the_system_is_found() {
    let found = check(2, Some("SyncNormal")).await;

    assert!(found.is_err(), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_until_there_is_space() {
    let scratch = scratch();
    let image = scratch.path().join("disk");
    fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    run("mkfs.ext4", &["-q", image.to_str().unwrap()]);
    let disk = Disk::mount(&image, scratch.path().join("mounted"));
    let ballast = disk.mount.join("ballast");
    fs::write(&ballast, vec![0; 3 << 20]).unwrap();
    let server = Server::ours(&disk.mount.join("store"), None);
    let mut client = server.client().await;

    let mut last = 0;
    let refused = loop {
        match client.put("a", vec![b'x'; 300_000], None).await {
            Ok(done) => last = done.header().unwrap().revision(),
            Err(error) => break error,
        }
    };
    assert!(refused.to_string().contains("database space exceeded"), "{refused}");
    let got = client.get("a", None).await.unwrap();
    assert_eq!((got.kvs()[0].mod_revision(), got.header().unwrap().revision()), (last, last));
    assert_eq!(
        client.alarm(etcd_client::AlarmAction::Get, etcd_client::AlarmType::None, None).await.unwrap().alarms().len(),
        1
    );

    fs::remove_file(&ballast).unwrap();
    let revision = client.put("b", "1", None).await.unwrap().header().unwrap().revision();
    assert_eq!(revision, last + 1);
}
