//! Looking at, copying and putting back a store's file, whether or not it is in use.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::Connection;
use thiserror::Error;

use crate::{
    disk::{self, OpenError},
    mvcc::{Revision, Span, Version},
};

/// How far a restored store is ahead of its backup: further than any store gets, so that no client has ever seen a
/// revision above it.
const RESTORE_AHEAD: Revision = 1_000_000_000;

/// Why a backup was not made or not put back.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The store, or the backup, cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What is to be put back is no backup, or not a sound one.
    #[error("{path} is no sound backup ({what}); nothing was restored, name another file")]
    Unsound {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// There is something already.
    #[error("{path} exists and is left as it is; move it away, or name another")]
    Exists {
        /// What.
        path: PathBuf,
    },
    /// A file cannot be written.
    #[error("{path} cannot be written")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// SQLite cannot write the copy.
    #[error("{path} cannot be written")]
    Copy {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}

/// What a store's file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStatus {
    /// The newest revision.
    pub revision: Revision,
    /// Up to where history is gone; 0: none was removed.
    pub compacted: Revision,
    /// Keys that exist.
    pub keys: usize,
    /// Leases that exist.
    pub leases: usize,
    /// Bytes of the file.
    pub bytes: u64,
    /// Which store this is.
    pub cluster_id: u64,
}

/// Reads and checks a store's file, as it is now.
///
/// # Errors
/// When there is none, or it cannot be read, or it is damaged.
pub fn observe_status(data_directory: &Path) -> Result<StoreStatus, OpenError> {
    status_of(&data_directory.join(disk::FILE))
}

/// Copies a store to a new file, as it is now, while it may be in use; the copy is checked and durable.
///
/// # Errors
/// When the store cannot be read, or the file exists or cannot be written.
pub fn backup(data_directory: &Path, file: &Path) -> Result<StoreStatus, BackupError> {
    if file.exists() {
        return Err(BackupError::Exists { path: file.to_owned() });
    }
    let store = data_directory.join(disk::FILE);
    let connection = disk::open_read_only(&store)?;
    // SQLite opens files when they are first used: what is wrong with the store is not to be said of the copy.
    disk::layout(&connection, &store)?;
    let partial = Partial::beside(file);
    copy(&connection, &partial.0)?;
    let status = status_of(&partial.0).map_err(|error| match error {
        OpenError::Damaged { what, .. } => OpenError::Damaged { path: store, what },
        other => other,
    })?;
    put_in_place(&partial.0, file)?;
    Ok(status)
}

/// Makes a store of a backup in a directory that has none. It is another store to its clients, and its revision is far
/// above everything that they can have seen.
///
/// # Errors
/// When the directory has a store or is in use, or the backup is damaged.
pub fn restore(file: &Path, data_directory: &Path) -> Result<StoreStatus, BackupError> {
    status_of(file).map_err(unsound)?;
    let _lock = disk::lock_directory(data_directory)?;
    let target = data_directory.join(disk::FILE);
    if target.exists() {
        return Err(BackupError::Exists { path: target });
    }
    let partial = Partial::beside(&target);
    copy(&disk::open_read_only(file)?, &partial.0)?;
    advance(&partial.0).map_err(|source| disk::sqlite(&partial.0, source))?;
    let status = status_of(&partial.0)?;
    put_in_place(&partial.0, &target)?;
    Ok(status)
}

/// Of a backup, other things are to be said than of a store.
fn unsound(error: OpenError) -> BackupError {
    match error {
        OpenError::NoStore { path } => BackupError::Unsound { path, what: "there is no such file".to_owned() },
        OpenError::Damaged { path, what } => BackupError::Unsound { path, what },
        OpenError::Sqlite { path, source } => BackupError::Unsound { path, what: source.to_string() },
        other => BackupError::Open(other),
    }
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// What a store holds now of the keys that are `wanted`, in their order: what can be moved to another store, and how many
/// keys cannot because they hang on a lease, which is not moved: they show that somebody is alive, or is about to go
/// anyway.
///
/// # Errors
/// When there is no store, or it cannot be read, or it is damaged.
pub fn read_entries(data_directory: &Path, wanted: impl Fn(&[u8]) -> bool) -> Result<(Vec<Entry>, usize), OpenError> {
    let path = data_directory.join(disk::FILE);
    let connection = disk::open_read_only(&path)?;
    let reading = connection.unchecked_transaction().map_err(|source| disk::sqlite(&path, source))?;
    let mvcc = disk::load(&reading, &path)?.mvcc;
    let everything = Span::new(&[0], &[0]);
    let moved = mvcc.span(&everything, Revision::MAX).filter(|version| wanted(&version.key));
    let (leased, kept): (Vec<_>, Vec<_>) = moved.partition(|version| version.lease != 0);
    let entry = |version: &&Arc<Version>| (version.key.to_vec(), version.value.as_deref().unwrap_or_default().to_vec());
    Ok((kept.iter().map(entry).collect(), leased.len()))
}

fn status_of(path: &Path) -> Result<StoreStatus, OpenError> {
    let connection = disk::open_read_only(path)?;
    // One transaction: what is read belongs together even while somebody writes.
    let reading = connection.unchecked_transaction().map_err(|source| disk::sqlite(path, source))?;
    let loaded = disk::load(&reading, path)?;
    Ok(StoreStatus {
        revision: loaded.mvcc.applied,
        compacted: loaded.mvcc.compacted.max(0),
        keys: loaded.mvcc.len(),
        leases: loaded.leases.len(),
        bytes: disk::size_of(path),
        cluster_id: loaded.identity.cluster,
    })
}

fn copy(connection: &Connection, target: &Path) -> Result<(), BackupError> {
    match fs::remove_file(target) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(BackupError::Write { path: target.to_owned(), source });
        }
        _ => {}
    }
    let name = target.to_string_lossy();
    let failed = |source| BackupError::Copy { path: target.to_owned(), source };
    connection.execute("VACUUM INTO ?1", [&*name]).map(drop).map_err(failed)
}

fn advance(path: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open(path)?;
    let transaction = connection.unchecked_transaction()?;
    let revision = disk::meta(&transaction, "revision")?.unwrap_or(1) + RESTORE_AHEAD;
    disk::set_meta(&transaction, "revision", revision)?;
    disk::set_meta(&transaction, "compacted", revision)?;
    disk::set_meta(&transaction, "cluster", rand::random())?;
    disk::set_meta(&transaction, "member", rand::random())?;
    transaction.commit()
}

fn put_in_place(partial: &Path, target: &Path) -> Result<(), BackupError> {
    let failed = |source| BackupError::Write { path: target.to_owned(), source };
    fs::File::open(partial).and_then(|file| file.sync_all()).map_err(failed)?;
    fs::rename(partial, target).map_err(failed)?;
    let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    Ok(disk::sync_directory(directory)?)
}

/// A file in the making. What did not become whole takes no space afterwards.
struct Partial(PathBuf);

impl Partial {
    fn beside(file: &Path) -> Self {
        let mut name = file.as_os_str().to_owned();
        name.push(".partial");
        Self(PathBuf::from(name))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Not there when it was put in place.
        fs::remove_file(&self.0).ok();
    }
}
