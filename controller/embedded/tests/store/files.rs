//! Files: backup and restore, a damaged file, a directory in use.

use std::fs;

use rusqlite::Connection;
use weft_embedded_store::{EmbeddedStore, StoreOptions, backup, observe_status, restore};

use crate::servers::{Ours, Server, scratch};

/// A restored store keeps its revision over restarts.
async fn check_restore(fault: Option<&str>) -> Result<(), String> {
    let ours = Ours::start().await;
    let mut client = ours.client().await;
    for value in ["1", "2", "3"] {
        client.put("a", value, None).await.unwrap();
    }
    let (target, file) = (scratch(), scratch());
    let copied = backup(ours.directory.path(), &file.path().join("backup")).unwrap();
    assert_eq!((copied.revision, copied.keys), (4, 1));
    let restored = restore(&file.path().join("backup"), target.path()).unwrap();
    assert_eq!((restored.revision, restored.compacted), (1_000_000_004, 1_000_000_004));
    assert_ne!(restored.cluster_id, copied.cluster_id);

    let server = Server::ours(target.path(), fault);
    let got = server.client().await.get("a", None).await.map_err(|error| error.to_string())?;
    let revision = got.header().unwrap().revision();
    assert_eq!(got.kvs()[0].value(), b"3");
    if revision == 1_000_000_004 { Ok(()) } else { Err(format!("revision {revision}")) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_becomes_another_store_far_ahead() {
    assert_eq!(check_restore(None).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_is_taken_from_rows_is_found() {
    let found = check_restore(Some("RevisionFromRows")).await;
    assert!(found.is_err(), "{found:?}");
}

#[tokio::test]
async fn a_damaged_file_is_named_and_left_as_it_is() {
    let directory = scratch();
    {
        let server = Server::ours(directory.path(), None);
        let mut client = server.client().await;
        for number in 0..50 {
            client.put(format!("key{number}"), "a value that can be found", None).await.unwrap();
        }
    }
    // Opening and closing writes everything back to the one file.
    observe_status(directory.path()).unwrap();
    let path = directory.path().join("state.db");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(11).position(|window| window == b"a value tha").unwrap();
    bytes[at] = b'b';
    fs::write(&path, &bytes).unwrap();

    let options = StoreOptions::new(directory.path(), "127.0.0.1:0".parse().unwrap());
    let error = EmbeddedStore::open(options).await.unwrap_err().to_string();

    assert!(error.contains("state.db is damaged (the checksum of revision"), "{error}");
    assert!(error.contains("weft store restore"), "{error}");
    let target = scratch();
    let error = backup(directory.path(), &target.path().join("backup")).unwrap_err().to_string();
    assert!(error.contains("state.db is damaged (the checksum of revision"), "{error}");
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0, "no part of a backup is left");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[tokio::test]
async fn a_file_of_another_program_or_of_a_later_version_is_left_as_it_is() {
    for (statements, expected) in [
        ("CREATE TABLE other (a)", ["is another program's", "holds no store"]),
        ("PRAGMA user_version = 9", ["has layout 9", "has layout 9"]),
    ] {
        let directory = scratch();
        let path = directory.path().join("state.db");
        Connection::open(&path).unwrap().execute_batch(statements).unwrap();

        let options = StoreOptions::new(directory.path(), "127.0.0.1:0".parse().unwrap());
        let opened = EmbeddedStore::open(options).await.unwrap_err().to_string();
        let shown = observe_status(directory.path()).unwrap_err().to_string();

        assert!(opened.contains(expected[0]) && shown.contains(expected[1]), "{opened}; {shown}");
        let tables = "SELECT count(*) FROM sqlite_master WHERE name = 'log'";
        let made: i64 = Connection::open(&path).unwrap().query_row(tables, [], |row| row.get(0)).unwrap();
        assert_eq!(made, 0);
    }
}

#[tokio::test]
async fn a_directory_serves_one_process_at_a_time() {
    let ours = Ours::start().await;
    let options = StoreOptions::new(ours.directory.path(), "127.0.0.1:0".parse().unwrap());

    let error = EmbeddedStore::open(options).await.unwrap_err().to_string();

    assert!(error.contains("is in use by another process"), "{error}");
    assert!(backup(&scratch().path().join("none"), &scratch().path().join("b")).is_err());
}
