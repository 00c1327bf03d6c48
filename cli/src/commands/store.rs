//! `weft store`: what a store holds, its copies, and the way to another store.

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context as _, bail};
use weft_embedded_store::{Entry, backup, observe_status, read_entries, restore};
use weft_overlay::{
    keys::KeyRange,
    store::{
        ListRequest, Store,
        etcd::{EtcdOptions, EtcdStore, Pem},
        list_all,
    },
    txn::{Compare, Op, Txn},
};

use super::daemon::run_daemon;
use crate::{
    args::{BackupArgs, ExportArgs, GlobalArgs, RestoreArgs, StoreCommand},
    exit::{Exit, Failure},
    output::{self, StoreCopied, StoreExported, StoreShown},
    values::{EtcdUrl, KeyPrefix},
};

/// Keys of one transaction, and bytes of their values: far below what a store takes.
const KEYS_PER_WRITE: usize = 100;
const BYTES_PER_WRITE: usize = 512 << 10;

pub(super) fn run(command: StoreCommand, global: &GlobalArgs) -> Result<ExitCode, Failure> {
    match command {
        StoreCommand::Status(args) => {
            let status = observe_status(&args.data_dir).map_err(|error| Failure::Store(error.into()))?;
            output::show(&StoreShown::new(args.data_dir.display().to_string(), &status), global.output)?;
        }
        StoreCommand::Backup(args) => output::show(&make_backup(&args)?, global.output)?,
        StoreCommand::Restore(args) => output::show(&put_back(&args)?, global.output)?,
        StoreCommand::Export(args) => {
            let prefix: KeyPrefix = args.key_prefix.parse()?;
            let exported = run_daemon(export(&args, &prefix)).map_err(Failure::Store)?;
            output::show(&exported, global.output)?;
        }
    }
    Ok(Exit::Ok.into())
}

fn make_backup(args: &BackupArgs) -> Result<StoreCopied, Failure> {
    let status = backup(&args.data_dir.data_dir, &args.file).map_err(|error| Failure::Store(error.into()))?;
    Ok(StoreCopied { file: args.file.display().to_string(), revision: status.revision, keys: status.keys })
}

fn put_back(args: &RestoreArgs) -> Result<StoreCopied, Failure> {
    let directory = &args.data_dir.data_dir;
    let status = restore(&args.file, directory).map_err(|error| Failure::Store(error.into()))?;
    Ok(StoreCopied { file: directory.display().to_string(), revision: status.revision, keys: status.keys })
}

async fn export(args: &ExportArgs, prefix: &KeyPrefix) -> anyhow::Result<StoreExported> {
    let range = KeyRange::prefix(prefix.to_string());
    let (entries, left_behind) = match &args.from {
        Some(url) => read_from(&connect(url, args).await?, &range).await?,
        None => read_entries(&args.data_dir.data_dir, |key| range.contains(key))?,
    };
    let target = connect(&args.to, args).await?;
    let there = target.list(ListRequest { range, limit: 1, revision: 0, linearizable: true }).await?;
    if let Some(kv) = there.kvs.first() {
        bail!(
            "{} has keys of a cluster already, such as {}; delete them, or export to another store",
            args.to,
            String::from_utf8_lossy(&kv.key)
        );
    }
    let keys = entries.len();
    write_to(&target, entries).await?;
    Ok(StoreExported { to: args.to.to_string(), keys, left_behind })
}

async fn connect(url: &EtcdUrl, args: &ExportArgs) -> anyhow::Result<EtcdStore> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let file = |path: &Option<_>| path.as_deref().map(read).transpose();
    let pem = if url.is_tls() {
        Pem { ca: file(&args.etcd_ca)?, cert: file(&args.etcd_cert)?, key: file(&args.etcd_key)? }
    } else {
        Pem::default()
    };
    Ok(EtcdStore::connect(EtcdOptions::parse(&[url.to_string()], pem)?).await?)
}

async fn read_from(store: &EtcdStore, range: &KeyRange) -> anyhow::Result<(Vec<Entry>, usize)> {
    let page = list_all(store, range.clone(), true).await?;
    let (leased, kept): (Vec<_>, Vec<_>) = page.kvs.into_iter().partition(|kv| kv.lease != 0);
    Ok((kept.into_iter().map(|kv| (kv.key, kv.value)).collect(), leased.len()))
}

/// Writes keys that must not exist. One that does is somebody else's, so the copy ends there.
async fn write_to(store: &EtcdStore, entries: Vec<Entry>) -> anyhow::Result<()> {
    let mut entries = entries.into_iter().peekable();
    while entries.peek().is_some() {
        let mut txn = Txn::default();
        let mut bytes = 0;
        while let Some((key, value)) = entries.next_if(|(_, value)| {
            let fits = txn.then.len() < KEYS_PER_WRITE && bytes + value.len() <= BYTES_PER_WRITE;
            fits || txn.then.is_empty()
        }) {
            bytes += value.len();
            txn.compares.push(Compare::Absent(key.clone()));
            txn.then.push(Op::put(key, value));
        }
        if !store.txn(txn).await?.succeeded {
            bail!(
                "somebody else writes to {} at the same time; stop its controllers and agents first",
                store.endpoint()
            );
        }
    }
    Ok(())
}
