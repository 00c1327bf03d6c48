//! The servers in the host's resolv.conf, and whether the file has changed.

use std::{
    fs, io,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tracing::warn;

/// How often the file may be looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// glibc reads no more servers than this (MAXNS in resolv.h); more would only lengthen the wait when none replies.
const MAX_SERVERS: usize = 3;

/// What was last read from the file.
#[derive(Debug)]
pub(super) struct Watched {
    path: PathBuf,
    looked: Option<Instant>,
    stamp: Option<Stamp>,
    servers: Vec<SocketAddr>,
}

/// Differs whenever the file was written or replaced.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Watched {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, looked: None, stamp: None, servers: Vec::new() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The servers, with port 0; looks whether the file changed if the last look is a second ago.
    pub(super) fn servers(&mut self, now: Instant) -> &[SocketAddr] {
        let due = self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK_EVERY);
        if due {
            self.looked = Some(now);
            self.look();
        }
        &self.servers
    }

    // Blocks on a small local file, once a second and only while there are questions.
    fn look(&mut self) {
        let stamp = match fs::metadata(&self.path) {
            Ok(m) => Some(Stamp { inode: m.ino(), size: m.size(), modified: (m.mtime(), m.mtime_nsec()) }),
            Err(_) => None,
        };
        if stamp == self.stamp {
            return;
        }
        match fs::read(&self.path) {
            Ok(text) => {
                self.servers = parse(&String::from_utf8_lossy(&text));
                self.stamp = stamp;
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    warn!(path = %self.path.display(), %error, "cannot read the host's resolvers");
                }
                self.servers.clear();
                self.stamp = None;
            }
        }
    }
}

/// The first three servers that are written as addresses.
fn parse(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then(|| words.next()).flatten()
    });
    servers.filter_map(parse_server).take(MAX_SERVERS).collect()
}

/// An address, with a zone after `%` if it is link-local (RFC 4007, 11).
fn parse_server(text: &str) -> Option<SocketAddr> {
    let Some((address, zone)) = text.split_once('%') else {
        return text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, 0));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let index = zone.parse().ok().or_else(|| nix::net::if_::if_nametoindex(zone).ok())?;
    Some(SocketAddrV6::new(address, 0, 0, index).into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn reads_servers_as_resolvers_do() {
        let text = "# nameserver 10.0.0.9\n;nameserver 10.0.0.8\nsearch example.com\noptions edns0\n\
                    nameserver 10.0.0.1\n\tnameserver\tfd00::1 # trailing\nnameserver not-an-address\nnameserver\n\
                    nameserver fe80::1%lo\nnameserver 10.0.0.4\n";

        let servers: Vec<String> = parse(text).iter().map(ToString::to_string).collect();

        assert_eq!(servers, ["10.0.0.1:0", "[fd00::1]:0", "[fe80::1%1]:0"]);
    }

    #[test]
    fn looks_at_the_file_once_a_second_and_follows_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let start = Instant::now();
        let mut watched = Watched::new(path.clone());
        let after = |ms| start + Duration::from_millis(ms);

        assert!(watched.servers(start).is_empty(), "no file, no servers");
        fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        assert!(watched.servers(after(999)).is_empty(), "not looked at again within the second");
        assert_eq!(ips(watched.servers(after(1000))), ["10.0.0.1"]);

        let replacement = directory.path().join("new");
        fs::write(&replacement, "nameserver 10.0.0.2\n").unwrap();
        fs::rename(&replacement, &path).unwrap();
        assert_eq!(ips(watched.servers(after(2000))), ["10.0.0.2"], "replaced by a file of the same size");

        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"nameserver 10.0.0.3\n").unwrap();
        assert_eq!(ips(watched.servers(after(3000))), ["10.0.0.2", "10.0.0.3"], "written in place");

        fs::remove_file(&path).unwrap();
        assert!(watched.servers(after(4000)).is_empty(), "removed");
    }

    fn ips(servers: &[SocketAddr]) -> Vec<String> {
        servers.iter().map(|s| s.ip().to_string()).collect()
    }
}
