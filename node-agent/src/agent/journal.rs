//! Which containers this node has attached, kept on disk: what the store no longer says of a node that it gave up.
//!
//! One file per endpoint, in a directory of the kernel's boot. A container does not outlive its kernel, so an entry need
//! not survive a power failure: nothing is forced to disk, and what other boots left is removed unread. A kill of the
//! agent at any point leaves a whole file or none, because a file gets its name when it is complete. Must not judge whether
//! a container is still there.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use thiserror::Error;
use tracing::warn;
use weft_overlay::{
    codec::{DecodeError, decode_frame, decode_record, encode_frame, encode_record},
    id::{EndpointId, NetworkId},
    model::EndpointRecord,
};

use crate::{identity::StateDir, reconciler::chain};

const DIRECTORY: &str = "attached";
/// Ends the name of a file that cannot be read: it is kept for people to look at.
const DAMAGED: &str = "damaged";
/// Ends the name of a file that is being written.
const DRAFT: &str = "new";

type Entries = BTreeMap<EndpointId, (NetworkId, EndpointRecord)>;

/// The endpoints of containers that this node has attached and not detached.
#[derive(Debug)]
pub(super) struct Journal {
    directory: PathBuf,
    entries: Mutex<Entries>,
}

/// Why an entry cannot be read.
#[derive(Debug, Error)]
enum EntryError {
    #[error("reading it")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("it names the network {0:?}, which is not a network id")]
    Network(String),
    #[error("it is about endpoint {0}, not about the one that it is named after")]
    Misnamed(EndpointId),
}

impl Journal {
    /// Reads what was noted since the kernel's boot. What cannot be read is set aside with a warning.
    pub(super) fn load(state: &StateDir, boot_id: &str) -> Self {
        let root = state.path().join(DIRECTORY);
        let directory = root.join(boot_id);
        let prepared = remove_other_boots(&root, boot_id).and_then(|()| fs::create_dir_all(&directory));
        let entries = prepared.and_then(|()| read_all(&directory)).unwrap_or_else(|error| {
            warn!(%error, path = %directory.display(), "the attached containers that were noted cannot be read");
            Entries::new()
        });
        Self { directory, entries: Mutex::new(entries) }
    }

    /// What is noted.
    pub(super) fn entries(&self) -> Vec<(NetworkId, EndpointRecord)> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Notes an endpoint, or what it has become.
    pub(super) fn note(&self, network: NetworkId, record: &EndpointRecord) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = (network, record.clone());
        if entries.get(&record.id) == Some(&entry) {
            return;
        }
        match write(&self.directory, network, record) {
            Ok(()) => drop(entries.insert(record.id, entry)),
            Err(error) => warn!(
                %error, endpoint = %record.id, path = %self.directory.display(),
                "an attached container could not be noted: it is forgotten if this node is given up while its agent is away"
            ),
        }
    }

    /// Notes what a noted endpoint has become. One that was forgotten meanwhile stays so.
    pub(super) fn amend(&self, network: NetworkId, record: &EndpointRecord) {
        let known = self.entries.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&record.id);
        if known {
            self.note(network, record);
        }
    }

    /// Forgets an endpoint: it is being detached, or cannot be had again.
    pub(super) fn forget(&self, endpoint: EndpointId) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.remove(&endpoint).is_none() {
            return;
        }
        if let Err(error) = fs::remove_file(self.directory.join(endpoint.to_string())) {
            warn!(%error, %endpoint, "a detach could not be noted: a restart may undo it");
        }
    }
}

fn remove_other_boots(root: &Path, boot_id: &str) -> io::Result<()> {
    let listing = match fs::read_dir(root) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in listing {
        let entry = entry?;
        if entry.file_name() != boot_id && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn read_all(directory: &Path) -> io::Result<Entries> {
    let mut entries = Entries::new();
    for file in fs::read_dir(directory)? {
        let path = file?.path();
        // A draft was never answered for, and what is damaged was told of when it was set aside.
        let Some(id) = path.file_name().and_then(|name| name.to_str()?.parse::<EndpointId>().ok()) else { continue };
        match read(&path, id) {
            Ok(entry) => drop(entries.insert(id, entry)),
            Err(error) => set_aside(&path, &error),
        }
    }
    Ok(entries)
}

fn read(path: &Path, id: EndpointId) -> Result<(NetworkId, EndpointRecord), EntryError> {
    let (network, record) = decode_frame::<(String, Vec<u8>)>(&fs::read(path)?)?;
    let record: EndpointRecord = decode_record(&record)?;
    if record.id != id {
        return Err(EntryError::Misnamed(record.id));
    }
    let network = network.parse().map_err(|_| EntryError::Network(network))?;
    Ok((network, record))
}

fn set_aside(path: &Path, error: &EntryError) {
    let aside = path.with_extension(DAMAGED);
    let moved =
        fs::rename(path, &aside).map_or_else(|error| format!("not moved: {error}"), |()| aside.display().to_string());
    warn!(
        error = %chain(error), path = %path.display(), moved,
        "what was noted of an attached container is damaged; if the store has forgotten it too, connect it again"
    );
}

fn write(directory: &Path, network: NetworkId, record: &EndpointRecord) -> io::Result<()> {
    let path = directory.join(record.id.to_string());
    let draft = path.with_extension(DRAFT);
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
    file.write_all(&encode_frame(&(network.to_string(), encode_record(record))))?;
    fs::rename(&draft, &path)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use weft_overlay::model::{EndpointKind, RECORD_VERSION};

    use super::*;

    const BOOT: &str = "b1";

    fn network() -> NetworkId {
        NetworkId::from_entropy(1)
    }

    fn record(id: u64) -> EndpointRecord {
        EndpointRecord {
            v: RECORD_VERSION,
            id: EndpointId::from_entropy(id),
            node: "00000000cd".parse().unwrap(),
            epoch: 1,
            kind: EndpointKind::Container,
            name: "ct".parse().unwrap(),
            aliases: Vec::new(),
            mac: "02:00:00:00:00:01".parse().unwrap(),
            ipv4: Some(Ipv4Addr::new(10, 0, 0, 2)),
            ipv6: None,
            vtep: Ipv4Addr::new(192, 168, 56, 11).into(),
            sandbox: None,
            docker: None,
            published: Vec::new(),
            extra: BTreeMap::new(),
        }
    }

    fn file(dir: &tempfile::TempDir, record: &EndpointRecord) -> PathBuf {
        dir.path().join(DIRECTORY).join(BOOT).join(record.id.to_string())
    }

    #[test]
    fn what_was_noted_and_not_forgotten_is_there_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, left) = (record(1), record(2));
        let changed = EndpointRecord { epoch: 2, ..kept.clone() };
        {
            let journal = Journal::load(&StateDir::open(dir.path()).unwrap(), BOOT);
            journal.note(network(), &kept);
            journal.note(network(), &left);
            journal.forget(left.id);
            journal.amend(network(), &left);
            journal.amend(network(), &changed);
        }

        let next = Journal::load(&StateDir::open(dir.path()).unwrap(), BOOT);

        assert_eq!(next.entries(), [(network(), changed)]);
    }

    #[test]
    fn entries_of_another_boot_are_removed_unread() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        Journal::load(&state, BOOT).note(network(), &record(1));
        fs::write(file(&dir, &record(1)), "").unwrap();

        assert_eq!(Journal::load(&state, "b2").entries(), []);
        assert!(!dir.path().join(DIRECTORY).join(BOOT).exists());
    }

    #[test]
    fn damaged_misnamed_and_unfinished_files_do_not_hide_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let [torn, misnamed, good] = [1, 2, 3].map(record);
        let journal = Journal::load(&state, BOOT);
        journal.note(network(), &torn);
        journal.note(network(), &good);
        let whole = fs::read(file(&dir, &torn)).unwrap();
        fs::write(file(&dir, &torn), &whole[..whole.len() / 2]).unwrap();
        fs::write(file(&dir, &misnamed), &whole).unwrap();
        fs::write(file(&dir, &record(4)).with_extension(DRAFT), &whole).unwrap();

        let next = Journal::load(&state, BOOT);

        assert_eq!(next.entries(), [(network(), good)]);
        for damaged in [torn, misnamed] {
            assert!(!file(&dir, &damaged).exists());
            assert!(file(&dir, &damaged).with_extension(DAMAGED).exists());
        }
    }
}
