//! The data plane's namespace: made, adopted, mounted again.

use std::{fs, os::unix::fs::MetadataExt, path::Path, thread};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use weft_node_agent::kernel::dataplane_ns::{DataPlaneNamespace, enter_mount_ns};

/// Runs a test with mounts of its own, on a thread that ends with them.
fn with_own_mounts(test: impl FnOnce(&Path) + Send + 'static) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let run = move || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        test(&path.join("netns"));
    };
    thread::spawn(run).join().unwrap();
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn a_missing_namespace_is_made_with_its_directory_and_adopted_the_next_time() {
    with_own_mounts(|directory| {
        let made = DataPlaneNamespace::ensure_at(directory, "weft").unwrap();
        assert!(made.check_mounted());
        assert_eq!(inode(made.path()), made.namespace().identity().unwrap().1);

        let adopted = DataPlaneNamespace::ensure_at(directory, "weft").unwrap();
        assert_eq!(adopted.namespace().identity().unwrap(), made.namespace().identity().unwrap());
    });
}

#[test]
fn a_lost_mount_is_noticed_and_put_back_with_the_same_namespace() {
    with_own_mounts(|directory| {
        let held = DataPlaneNamespace::ensure_at(directory, "weft").unwrap();
        let before = inode(held.path());

        umount2(held.path(), MntFlags::MNT_DETACH).unwrap();
        fs::remove_file(held.path()).unwrap();
        assert!(!held.check_mounted());

        assert!(held.ensure_mounted().unwrap());
        assert_eq!(inode(held.path()), before);
        assert!(!held.ensure_mounted().unwrap());
    });
}

#[test]
fn a_plain_file_of_that_name_is_not_taken_for_a_namespace() {
    with_own_mounts(|directory| {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("weft"), "").unwrap();

        let made = DataPlaneNamespace::ensure_at(directory, "weft").unwrap();

        assert!(made.check_mounted());
    });
}

#[test]
fn a_namespace_of_others_mounted_there_meanwhile_is_noticed() {
    with_own_mounts(|directory| {
        let held = DataPlaneNamespace::ensure_at(directory, "weft").unwrap();
        let other = DataPlaneNamespace::ensure_at(directory, "other").unwrap();

        mount(Some(other.path()), held.path(), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();

        assert!(!held.check_mounted());
        assert!(held.ensure_mounted().unwrap());
        assert!(held.check_mounted());
    });
}

#[test]
fn another_mount_namespace_is_entered_from_a_private_one_and_once_only() {
    with_own_mounts(|_| {
        let others = format!("/proc/{}/ns/mnt", std::process::id());
        let others = Path::new(&others);
        assert_ne!(inode(Path::new("/proc/thread-self/ns/mnt")), inode(others));

        assert!(enter_mount_ns(others).unwrap());

        assert_eq!(inode(Path::new("/proc/thread-self/ns/mnt")), inode(others));
        assert!(!enter_mount_ns(others).unwrap());
    });
}
