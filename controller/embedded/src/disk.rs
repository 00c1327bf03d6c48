//! What survives: the changes of every revision that is kept, leases, and how far the store had got, in one SQLite file.
//!
//! A batch is one SQLite transaction in WAL mode with `synchronous=FULL`: when [`Log::append`] returns, it is synced. The
//! revision is stored, never derived from rows: compaction removes rows. Must not decide anything.

use std::{
    fmt::Debug,
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, params};
use thiserror::Error;

use crate::{
    checksum::Crc32c,
    fault::{self, Fault},
    header::Identity,
    mvcc::{Mvcc, NEVER_COMPACTED, Record, Revision, RowId, Version},
};

/// The layout of the file. A greater number is not read.
const SCHEMA: i64 = 1;

/// The name of the file below the data directory.
pub(crate) const FILE: &str = "state.db";

/// Pages of the write-ahead log (4 KiB each) after which they are written back to the file.
const CHECKPOINT_PAGES: i64 = 4000;

/// Why the data directory cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A directory or file cannot be made or opened.
    #[error("{path} cannot be used as the store's data directory; make it writable or choose another with --data-dir")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has it open.
    #[error("{path} is in use by another process; stop it, or choose another directory with --data-dir")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// There is no store where one is expected.
    #[error("{path} does not exist: there is no store in this directory; name one with --data-dir")]
    NoStore {
        /// The file.
        path: PathBuf,
    },
    /// SQLite cannot read or write the file.
    #[error(
        "{path} cannot be read or written; if its disk is sound and not full, restore a backup with `weft store restore`"
    )]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// SQLite may not open the file, or not make the files beside it that it needs, even to read.
    #[error("{path} cannot be opened; it and its directory must be writable, also to be read")]
    Inaccessible {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The file holds what this program never writes. It is left as it is.
    #[error("{path} is damaged ({what}) and is left as it is; restore a backup with `weft store restore`")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A later version wrote the file.
    #[error("{path} has layout {found}, this version of weft reads up to {SCHEMA}; upgrade weft")]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: i64,
    },
}

/// Why a batch is not durable.
#[derive(Debug, Error)]
pub(crate) enum AppendError {
    /// No space is left. Nothing of the batch is there; later ones may succeed.
    #[error("no space is left for the store's file")]
    Full,
    /// Whether the batch is there is unknown, so nothing may be done any more.
    #[error("the store's file cannot be written")]
    Broken(#[source] rusqlite::Error),
}

/// A lease that came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseChange {
    Granted { id: i64, ttl: i64 },
    Ended { id: i64 },
}

/// What is made durable together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) records: Vec<Record>,
    pub(crate) leases: Vec<LeaseChange>,
    pub(crate) compacted: Option<Revision>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.leases.is_empty() && self.compacted.is_none()
    }
}

/// Durable storage as the writer sees it.
pub(crate) trait Log: Debug + Send {
    /// Makes a batch durable, wholly or not at all.
    fn append(&mut self, batch: &Batch) -> Result<(), AppendError>;

    /// Removes rows that compaction made useless. Need not be durable: opening finds them again.
    fn discard(&mut self, rows: &[RowId]) -> Result<(), AppendError>;

    /// Bytes on disk.
    fn size(&self) -> u64;
}

/// What a data directory held.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) identity: Identity,
    pub(crate) mvcc: Mvcc,
    /// Ids and times to live.
    pub(crate) leases: Vec<(i64, i64)>,
    /// Rows that compaction had left behind.
    pub(crate) garbage: Vec<RowId>,
}

/// The log in SQLite. Holds the directory's lock.
#[derive(Debug)]
pub(crate) struct SqliteLog {
    connection: Connection,
    path: PathBuf,
    _lock: Flock<File>,
}

impl SqliteLog {
    /// Opens a data directory, made if missing, and reads everything.
    pub(crate) fn open(directory: &Path) -> Result<(Self, Loaded), OpenError> {
        let lock = lock_directory(directory)?;
        let path = directory.join(FILE);
        let open = || {
            let connection = Connection::open(&path)?;
            configure(&connection)?;
            Ok(connection)
        };
        let connection: Connection = open().map_err(|source| sqlite(&path, source))?;
        let log = Self { connection, path, _lock: lock };
        log.prepare(Identity { cluster: rand::random(), member: rand::random() })?;
        sync_directory(directory)?;
        let loaded = load(&log.connection, &log.path)?;
        Ok((log, loaded))
    }

    fn prepare(&self, fresh: Identity) -> Result<(), OpenError> {
        let fail = |source| sqlite(&self.path, source);
        if layout(&self.connection, &self.path)? != 0 {
            return Ok(());
        }
        let tables = "SELECT count(*) FROM sqlite_master";
        if self.connection.query_row(tables, [], |row| row.get::<_, i64>(0)).map_err(fail)? > 0 {
            return Err(OpenError::Damaged { path: self.path.clone(), what: "it is another program's".to_owned() });
        }
        create(&self.connection, fresh).map_err(fail)
    }
}

impl Log for SqliteLog {
    fn append(&mut self, batch: &Batch) -> Result<(), AppendError> {
        let transaction = self.connection.transaction().map_err(append_error)?;
        write(&transaction, batch).map_err(append_error)?;
        transaction.commit().map_err(append_error)
    }

    fn discard(&mut self, rows: &[RowId]) -> Result<(), AppendError> {
        let transaction = self.connection.transaction().map_err(append_error)?;
        delete_rows(&transaction, rows).map_err(append_error)?;
        transaction.commit().map_err(append_error)
    }

    fn size(&self) -> u64 {
        size_of(&self.path)
    }
}

/// Bytes of a store's file, with what was not written back to it yet.
pub(crate) fn size_of(path: &Path) -> u64 {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let size = |path: &Path| fs::metadata(path).map(|metadata| metadata.len()).unwrap_or_default();
    size(path) + size(Path::new(&log))
}

/// Opens a store's file for reading only; one that is in use is read as it is now.
pub(crate) fn open_read_only(path: &Path) -> Result<Connection, OpenError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::NoStore { path: path.to_owned() });
        }
        Err(source) => return Err(OpenError::Directory { path: path.to_owned(), source }),
        Ok(_) => {}
    }
    // Not opened as read-only: reading a write-ahead log that a crash left needs its index to be made again.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|source| sqlite(path, source))?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(|source| sqlite(path, source))?;
    Ok(connection)
}

/// Takes a data directory for this process, making it if it is missing.
pub(crate) fn lock_directory(directory: &Path) -> Result<Flock<File>, OpenError> {
    let unusable = |source| OpenError::Directory { path: directory.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
    let mut options = fs::OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).mode(0o600).open(directory.join("store.lock"));
    Flock::lock(file.map_err(unusable)?, FlockArg::LockExclusiveNonblock)
        .map_err(|_| OpenError::InUse { path: directory.to_owned() })
}

/// Makes the names of files in a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), OpenError> {
    let sync = |path: &Path| File::open(path)?.sync_all();
    let unusable = |source| OpenError::Directory { path: directory.to_owned(), source };
    sync(directory).map_err(unusable)?;
    directory.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync).map_err(unusable)
}

pub(crate) fn sqlite(path: &Path, source: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            OpenError::Inaccessible { path, source }
        }
        _ => OpenError::Sqlite { path, source },
    }
}

/// Which layout a file has; 0 when it is empty, or another program's.
pub(crate) fn layout(connection: &Connection, path: &Path) -> Result<i64, OpenError> {
    let found = connection.query_row("PRAGMA user_version", [], |row| row.get(0));
    let found: i64 = found.map_err(|source| sqlite(path, source))?;
    if found > SCHEMA { Err(OpenError::Schema { path: path.to_owned(), found }) } else { Ok(found) }
}

/// Reads everything that a file holds, and checks it.
pub(crate) fn load(connection: &Connection, path: &Path) -> Result<Loaded, OpenError> {
    let fail = |source| sqlite(path, source);
    let damaged = |what: String| OpenError::Damaged { path: path.to_owned(), what };
    if layout(connection, path)? == 0 {
        return Err(damaged("it holds no store".to_owned()));
    }
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(fail)?;
    if verdict != "ok" {
        return Err(damaged(verdict));
    }
    let number = |name| meta(connection, name).map_err(fail)?.ok_or_else(|| damaged(format!("it names no {name}")));
    let identity = Identity { cluster: number("cluster")?.cast_unsigned(), member: number("member")?.cast_unsigned() };
    let (revision, compacted) = (number("revision")?, number("compacted")?);
    let mut mvcc = Mvcc::new(0, NEVER_COMPACTED);
    load_rows(connection, path, &mut mvcc)?;
    if mvcc.applied > revision {
        return Err(damaged(format!("revision {} is there, but {revision} is the last", mvcc.applied)));
    }
    if !fault::has(Fault::RevisionFromRows) {
        mvcc.applied = revision;
    }
    let garbage = if compacted > NEVER_COMPACTED { mvcc.compact(compacted) } else { Vec::new() };
    let mut statement = connection.prepare("SELECT id, ttl FROM lease").map_err(fail)?;
    let leases = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(fail)?;
    let leases = leases.collect::<Result<_, _>>().map_err(fail)?;
    Ok(Loaded { identity, mvcc, leases, garbage })
}

fn load_rows(connection: &Connection, path: &Path, mvcc: &mut Mvcc) -> Result<(), OpenError> {
    let fail = |source| sqlite(path, source);
    let mut statement = connection
        .prepare("SELECT rev, sub, key, value, created, version, lease, sum FROM log ORDER BY rev, sub")
        .map_err(fail)?;
    let mut rows = statement.query([]).map_err(fail)?;
    let mut changes: Vec<Arc<Version>> = Vec::new();
    let close = |mvcc: &mut Mvcc, changes: &mut Vec<Arc<Version>>| {
        if let Some(revision) = changes.first().map(|change| change.modified) {
            mvcc.append(Record { revision, changes: std::mem::take(changes).into() });
        }
    };
    while let Some(row) = rows.next().map_err(fail)? {
        let (version, sum) = version(row, mvcc).map_err(fail)?;
        if checksum(&version) != sum {
            let what = format!("the checksum of revision {}, change {} is wrong", version.modified, version.sub);
            return Err(OpenError::Damaged { path: path.to_owned(), what });
        }
        if changes.first().is_some_and(|change| change.modified != version.modified) {
            close(mvcc, &mut changes);
        }
        let version = Arc::new(version);
        mvcc.insert(&version);
        changes.push(version);
    }
    close(mvcc, &mut changes);
    Ok(())
}

fn version(row: &Row<'_>, mvcc: &Mvcc) -> rusqlite::Result<(Version, i64)> {
    let key = row.get_ref(2)?.as_blob()?;
    let value = row.get_ref(3)?.as_blob_or_null()?.map(Into::into);
    let version = Version {
        key: mvcc.shared_key(key),
        value,
        modified: row.get(0)?,
        sub: row.get(1)?,
        created: row.get(4)?,
        version: row.get(5)?,
        lease: row.get(6)?,
    };
    Ok((version, row.get(7)?))
}

fn checksum(version: &Version) -> i64 {
    let mut sum = Crc32c::default();
    for number in [version.modified, version.sub, version.created, version.version, version.lease] {
        sum.write(&number.to_le_bytes());
    }
    sum.write(&version.key);
    sum.write(&[u8::from(version.is_deletion())]);
    sum.write(version.value.as_deref().unwrap_or_default());
    i64::from(sum.finish())
}

pub(crate) fn meta(connection: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0)).optional()
}

pub(crate) fn set_meta(connection: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("UPDATE meta SET value = ?2 WHERE name = ?1")?;
    statement.execute(params![name, value]).map(drop)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let synchronous = if fault::has(Fault::SyncNormal) { "NORMAL" } else { "FULL" };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.set_prepared_statement_cache_capacity(16);
    Ok(())
}

fn create(connection: &Connection, identity: Identity) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(
        "CREATE TABLE log (rev INTEGER, sub INTEGER, key BLOB NOT NULL, value BLOB, created INTEGER NOT NULL,
             version INTEGER NOT NULL, lease INTEGER NOT NULL, sum INTEGER NOT NULL, PRIMARY KEY (rev, sub)) WITHOUT ROWID;
         CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL);
         CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;",
    )?;
    let mut insert = transaction.prepare("INSERT INTO meta VALUES (?1, ?2)")?;
    for (name, value) in [
        ("cluster", identity.cluster.cast_signed()),
        ("member", identity.member.cast_signed()),
        ("revision", 1),
        ("compacted", NEVER_COMPACTED),
    ] {
        insert.execute(params![name, value])?;
    }
    drop(insert);
    transaction.pragma_update(None, "user_version", SCHEMA)?;
    transaction.commit()
}

fn write(transaction: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached("INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
    for version in batch.records.iter().flat_map(|record| &record.changes) {
        insert.execute(params![
            version.modified,
            version.sub,
            &*version.key,
            version.value.as_deref(),
            version.created,
            version.version,
            version.lease,
            checksum(version),
        ])?;
    }
    if let Some(last) = batch.records.last() {
        set_meta(transaction, "revision", last.revision)?;
    }
    if let Some(compacted) = batch.compacted {
        set_meta(transaction, "compacted", compacted)?;
    }
    for change in &batch.leases {
        match *change {
            LeaseChange::Granted { id, ttl } => {
                transaction.prepare_cached("INSERT INTO lease VALUES (?1, ?2)")?.execute(params![id, ttl])?
            }
            LeaseChange::Ended { id } => {
                transaction.prepare_cached("DELETE FROM lease WHERE id = ?1")?.execute(params![id])?
            }
        };
    }
    Ok(())
}

fn delete_rows(transaction: &Transaction<'_>, rows: &[RowId]) -> rusqlite::Result<()> {
    let mut delete = transaction.prepare_cached("DELETE FROM log WHERE rev = ?1 AND sub = ?2")?;
    for (revision, sub) in rows {
        delete.execute(params![revision, sub])?;
    }
    Ok(())
}

fn append_error(error: rusqlite::Error) -> AppendError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => AppendError::Full,
        _ => AppendError::Broken(error),
    }
}
