//! The data plane's namespace: made, adopted, mounted again.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use weft_node_agent::{
    kernel::{dataplane_ns::DataPlaneNamespace, host_mounts::HostMounts},
    netns::Namespace,
};

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
        let made = DataPlaneNamespace::ensure_at(HostMounts::default(), directory, "weft").unwrap();
        assert!(made.check_mounted());
        assert_eq!(inode(made.path()), made.namespace().identity().unwrap().1);

        let adopted = DataPlaneNamespace::ensure_at(HostMounts::default(), directory, "weft").unwrap();
        assert_eq!(adopted.namespace().identity().unwrap(), made.namespace().identity().unwrap());
    });
}

#[test]
fn a_lost_mount_is_noticed_and_put_back_with_the_same_namespace() {
    with_own_mounts(|directory| {
        let held = DataPlaneNamespace::ensure_at(HostMounts::default(), directory, "weft").unwrap();
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

        let made = DataPlaneNamespace::ensure_at(HostMounts::default(), directory, "weft").unwrap();

        assert!(made.check_mounted());
    });
}

#[test]
fn a_namespace_of_others_mounted_there_meanwhile_is_noticed() {
    with_own_mounts(|directory| {
        let held = DataPlaneNamespace::ensure_at(HostMounts::default(), directory, "weft").unwrap();
        let other = DataPlaneNamespace::ensure_at(HostMounts::default(), directory, "other").unwrap();

        mount(Some(other.path()), held.path(), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();

        assert!(!held.check_mounted());
        assert!(held.ensure_mounted().unwrap());
        assert!(held.check_mounted());
    });
}

/// Runs a test as a host whose mounts are shared, as they are under systemd.
fn as_host(test: impl FnOnce(&Host) + Send + 'static) {
    with_own_mounts(|directory| {
        fs::create_dir(directory).unwrap();
        mount(Some("host"), directory, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        mount(None::<&str>, directory, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        let mounts = PathBuf::from(format!("/proc/self/task/{}/ns/mnt", nix::unistd::gettid()));
        test(&Host { mounts, names: directory.join("netns") });
    });
}

struct Host {
    /// Its mount namespace.
    mounts: PathBuf,
    /// Its /run/netns.
    names: PathBuf,
}

impl Host {
    /// Runs something as a sandboxed service would: the host's mounts reach it, its own do not reach the host.
    fn sandboxed<R: Send>(&self, service: impl FnOnce() -> R + Send) -> R {
        let run = || {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
            let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
            mount(None::<&str>, "/", None::<&str>, slave, None::<&str>).unwrap();
            service()
        };
        thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    fn ensure(&self) -> DataPlaneNamespace {
        DataPlaneNamespace::ensure_at(HostMounts::of(&self.mounts).unwrap(), &self.names, "weft").unwrap()
    }

    /// The inode of the namespace at its name, as the calling thread sees it.
    fn named(&self) -> Option<u64> {
        let path = self.names.join("weft");
        let found = nix::sys::statfs::statfs(&path).ok()?;
        (found.filesystem_type() == nix::sys::statfs::NSFS_MAGIC).then(|| inode(&path))
    }
}

fn inode_of(namespace: &Namespace) -> u64 {
    namespace.identity().unwrap().1
}

#[test]
fn a_sandboxed_agents_namespace_is_seen_by_the_host_and_outlives_it() {
    as_host(|host| {
        let made = host.sandboxed(|| {
            let held = host.ensure();
            assert_eq!(host.named(), Some(inode_of(held.namespace())), "the agent does not see it");
            inode_of(held.namespace())
        });

        assert_eq!(host.named(), Some(made));
        let adopted = host.sandboxed(|| inode_of(host.ensure().namespace()));
        assert_eq!(adopted, made);
    });
}

#[test]
fn a_sandboxed_agent_puts_back_what_the_host_unmounted() {
    as_host(|host| {
        let held = host.sandboxed(|| host.ensure());
        let made = host.named().unwrap();

        umount2(held.path(), MntFlags::MNT_DETACH).unwrap();
        fs::remove_file(held.path()).unwrap();
        let put_back = host.sandboxed(|| (held.check_mounted(), held.ensure_mounted().unwrap(), held.check_mounted()));

        assert_eq!(put_back, (false, true, true));
        assert_eq!(host.named(), Some(made));
    });
}

#[test]
fn nothing_but_the_mount_is_done_in_the_hosts_mount_namespace() {
    as_host(|host| {
        let before = inode(&host.mounts);
        host.sandboxed(|| {
            let own = inode(Path::new("/proc/thread-self/ns/mnt"));
            assert_ne!(own, before);

            let held = host.ensure();

            assert_eq!(inode(Path::new("/proc/thread-self/ns/mnt")), own);
            let elsewhere = HostMounts::of(&host.mounts).unwrap();
            assert_eq!(elsewhere.run(|| inode(Path::new("/proc/thread-self/ns/mnt"))).unwrap(), before);
            assert!(held.check_mounted());
        });
    });
}

#[test]
fn the_host_sees_nothing_of_a_namespace_that_was_mounted_in_the_sandbox() {
    as_host(|host| {
        host.sandboxed(|| {
            DataPlaneNamespace::ensure_at(HostMounts::default(), &host.names, "weft").unwrap();
            assert!(host.named().is_some());
        });

        assert_eq!(host.named(), None);
    });
}

#[test]
fn a_mount_namespace_that_is_the_own_is_not_entered() {
    with_own_mounts(|_| {
        let here = HostMounts::of(Path::new("/proc/thread-self/ns/mnt")).unwrap();
        let thread = nix::unistd::gettid();

        assert_eq!(here.run(nix::unistd::gettid).unwrap(), thread);
    });
}

#[test]
fn what_is_no_mount_namespace_is_an_error() {
    HostMounts::of(Path::new("/proc/self/ns/net")).unwrap_err();
    HostMounts::of(Path::new("/proc/self/ns/none")).unwrap_err();
}
