use tempfile::TempDir;

use super::*;

fn owner() -> NodeId {
    "0123456789".parse().unwrap()
}

#[test]
fn renders_what_a_resolver_reads() {
    let text = render(&addrs(&["10.32.0.1", "fd01::1"]), &ResolverOptions::default(), owner());

    let (first, rest) = text.split_once('\n').unwrap();
    assert!(first.starts_with("# weft"), "{first}");
    assert_eq!(rest, "nameserver 10.32.0.1\nnameserver fd01::1\nsearch .\noptions ndots:0 timeout:5 attempts:2\n");
}

#[test]
fn renders_no_more_servers_than_are_read() {
    let text = render(&addrs(&["10.1.0.1", "10.2.0.1", "10.3.0.1", "10.4.0.1"]), &ResolverOptions::default(), owner());

    assert_eq!(text.matches("nameserver").count(), 3);
    assert!(!text.contains("10.4.0.1"));
}

#[test]
fn writes_once_then_only_changes() {
    let (base, name) = (TempDir::new().unwrap(), ns("ct1"));
    let path = base.path().join("ct1/resolv.conf");

    assert_eq!(ensure(base.path(), &name, "# weft\na\n").unwrap(), Ensured::Written);
    let inode = inode(&path);
    assert_eq!(ensure(base.path(), &name, "# weft\na\n").unwrap(), Ensured::Unchanged);
    assert_eq!(self::inode(&path), inode, "an unchanged file is not replaced");
    assert_eq!(ensure(base.path(), &name, "# weft\nb\n").unwrap(), Ensured::Written);

    assert_eq!(fs::read_to_string(&path).unwrap(), "# weft\nb\n");
    assert_ne!(self::inode(&path), inode, "a changed file is replaced, not edited");
    assert_eq!(mode(&path), 0o644);
    assert_eq!(files(base.path().join("ct1")), ["resolv.conf"], "nothing else is left");
}

#[test]
fn repairs_the_mode_of_our_file() {
    let (base, name) = (TempDir::new().unwrap(), ns("ct1"));
    let path = base.path().join("ct1/resolv.conf");
    ensure(base.path(), &name, "# weft\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();

    assert_eq!(ensure(base.path(), &name, "# weft\n").unwrap(), Ensured::Written);

    assert_eq!(mode(&path), 0o644);
}

#[test]
fn replaces_what_an_interrupted_write_left() {
    let (base, name) = (TempDir::new().unwrap(), ns("ct1"));
    fs::create_dir(base.path().join("ct1")).unwrap();
    fs::write(base.path().join("ct1/.resolv.conf.weft"), "half a fi").unwrap();

    assert_eq!(ensure(base.path(), &name, "# weft\n").unwrap(), Ensured::Written);

    assert_eq!(files(base.path().join("ct1")), ["resolv.conf"]);
}

#[test]
fn leaves_foreign_files_alone() {
    for content in ["nameserver 8.8.8.8\n", "", "\n# weft\n"] {
        let (base, name) = (TempDir::new().unwrap(), ns("ct1"));
        let path = base.path().join("ct1/resolv.conf");
        fs::create_dir(base.path().join("ct1")).unwrap();
        fs::write(&path, content).unwrap();

        assert_eq!(ensure(base.path(), &name, "# weft\n").unwrap(), Ensured::Foreign, "{content:?}");
        assert_eq!(remove(base.path(), &name).unwrap(), Removed::Foreign, "{content:?}");

        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
}

#[test]
fn leaves_a_link_alone_even_one_to_a_file_like_ours() {
    let (base, name) = (TempDir::new().unwrap(), ns("ct1"));
    let target = base.path().join("elsewhere");
    fs::write(&target, "# weft\nold\n").unwrap();
    fs::create_dir(base.path().join("ct1")).unwrap();
    std::os::unix::fs::symlink(&target, base.path().join("ct1/resolv.conf")).unwrap();

    assert_eq!(ensure(base.path(), &name, "# weft\nnew\n").unwrap(), Ensured::Foreign);
    assert_eq!(remove(base.path(), &name).unwrap(), Removed::Foreign);

    assert_eq!(fs::read_to_string(&target).unwrap(), "# weft\nold\n");
}

#[test]
fn removes_our_file_and_the_empty_directory_only() {
    let (base, name) = (TempDir::new().unwrap(), ns("ct1"));
    assert_eq!(remove(base.path(), &name).unwrap(), Removed::Absent);
    ensure(base.path(), &name, "# weft\n").unwrap();
    fs::write(base.path().join("ct1/hosts"), "127.0.0.1 localhost\n").unwrap();

    assert_eq!(remove(base.path(), &name).unwrap(), Removed::Removed);
    assert_eq!(files(base.path().join("ct1")), ["hosts"], "what is not ours stays");
    fs::remove_file(base.path().join("ct1/hosts")).unwrap();
    ensure(base.path(), &name, "# weft\n").unwrap();
    assert_eq!(remove(base.path(), &name).unwrap(), Removed::Removed);

    assert!(files(base.path()).is_empty());
}

#[test]
fn names_that_would_leave_the_directory_are_refused() {
    for bad in ["", ".", "..", "a/b", "../x", "a\0b", &"x".repeat(256)] {
        assert!(bad.parse::<NetnsName>().is_err(), "{bad:?} was accepted");
    }
    for good in ["ct1", "a b", "...", &"x".repeat(255)] {
        assert_eq!(ns(good).as_str(), good);
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_with_its_path() {
    let base = TempDir::new().unwrap();
    fs::write(base.path().join("file"), "").unwrap();

    let error = ensure(&base.path().join("file"), &ns("ct1"), "# weft\n").unwrap_err();

    assert!(error.to_string().contains("file/ct1/resolv.conf"), "{error}");
}

fn ns(text: &str) -> NetnsName {
    text.parse().unwrap()
}

fn addrs(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

fn files(directory: impl AsRef<Path>) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}
