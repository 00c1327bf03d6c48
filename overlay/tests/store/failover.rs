//! What the etcd adapter does when members are dead, silent, stopped, restarted or full, and over TLS.

use std::{net::TcpListener, time::Duration};

use tokio::time::{Instant, timeout};
use weft_overlay::{
    claims::{Claim as _, CreateNetwork, NetworkCreated},
    keys::{KeyRange, Keyspace},
    store::{
        ListRequest, Store as _, StoreError, WatchItem, WatchRequest, carry_out,
        etcd::{EtcdOptions, EtcdStore, Pem, Timing},
    },
    txn::{Op, Revision, Txn},
};

use crate::{
    etcd_process::{EtcdProcess, PATIENT, connect, free_port},
    outcome,
    rig::eventually,
    watches::events,
};

fn dead_url() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

fn put(key: &str, value: Vec<u8>) -> Txn {
    Txn { then: vec![Op::put(key.as_bytes().to_vec(), value)], ..Txn::default() }
}

async fn write(store: &EtcdStore, key: &str) -> Revision {
    store.txn(put(key, Vec::new())).await.unwrap().revision
}

async fn keys(store: &EtcdStore, prefix: &str) -> Result<Vec<String>, StoreError> {
    let range = KeyRange::prefix(prefix);
    let page = store.list(ListRequest { range, limit: 0, revision: 0, linearizable: true }).await?;
    Ok(page.kvs.into_iter().map(|kv| String::from_utf8(kv.key).unwrap()).collect())
}

fn everything() -> WatchRequest {
    WatchRequest { range: KeyRange::prefix("/"), from: 1 }
}

/// Waits until the watch closes, however many items come before.
async fn closed(watch: &mut weft_overlay::store::Watch, within: Duration) -> String {
    let wait = async {
        loop {
            if let WatchItem::Closed { reason } = watch.next().await {
                return reason;
            }
        }
    };
    timeout(within, wait).await.expect("the watch closes in time")
}

#[tokio::test]
async fn dead_endpoints_before_a_living_one_fail_no_call() {
    let etcd = EtcdProcess::shared().await;
    let store = connect(&[dead_url(), dead_url(), etcd.url()], PATIENT).await;

    let begun = Instant::now();
    write(&store, "/dead/first").await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    for n in 0..20 {
        write(&store, &format!("/dead/{n}")).await;
    }
    let mut watch = store.watch(everything()).await.unwrap();
    assert!(!events(&mut watch, 1).await.is_empty());
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    assert_eq!(store.keep_alive(lease.id).await.unwrap(), lease.ttl);

    assert_eq!(store.endpoint(), etcd.url());
}

#[tokio::test]
async fn a_store_without_a_living_endpoint_says_whom_it_asked() {
    let url = dead_url();
    let store = connect(std::slice::from_ref(&url), Timing::default()).await;
    let begun = Instant::now();

    let error = store.txn(put("/x", Vec::new())).await.unwrap_err();
    let no_watch = store.watch(everything()).await.unwrap_err();

    assert!(error.is_transient() && no_watch.is_transient());
    assert!(error.to_string().contains(&url) && error.to_string().contains("refused"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_endpoint_that_never_answers_costs_one_call() {
    let etcd = EtcdProcess::shared().await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let store = connect(&[url.clone(), etcd.url()], Timing::default()).await;

    let error = store.txn(put("/silent/1", Vec::new())).await.unwrap_err();
    outcome!(error, StoreError::Unavailable { endpoint, .. } => assert_eq!(endpoint, url));

    write(&store, "/silent/2").await;
    assert_eq!(keys(&store, "/silent/").await.unwrap(), ["/silent/2"], "an unknown outcome must not be retried");
}

#[tokio::test]
async fn a_claim_made_to_a_stopped_server_has_an_unknown_outcome_that_repeating_it_settles() {
    let etcd = EtcdProcess::start(&[]).await;
    let (patient, store) = (etcd.store().await, connect(&[etcd.url()], Timing::default()).await);
    let keys = Keyspace::default();
    let (network, spec) = crate::rig::network(1);
    let claim = CreateNetwork { network, spec };
    write(&patient, "/ready").await;

    etcd.signal("STOP");
    let begun = Instant::now();
    let error = store.txn(claim.txn(&keys)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(begun.elapsed() < Timing::default().call + Duration::from_secs(2), "{:?}", begun.elapsed());
    etcd.signal("CONT");

    // The request may lie in the server's socket, to be carried out or dropped when it wakes.
    eventually("the claim's outcome", || async {
        match carry_out(&patient, &keys, &claim).await {
            Ok(NetworkCreated::Created(_)) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let names = patient.list(ListRequest { range: keys.network_names(), limit: 0, revision: 0, linearizable: true });
    assert_eq!(names.await.unwrap().kvs.len(), 1);
}

#[tokio::test]
async fn a_silent_server_closes_its_watches_within_fifteen_seconds() {
    let etcd = EtcdProcess::start(&[]).await;
    let store = etcd.store().await;
    write(&store, "/a").await;
    let mut watch = store.watch(everything()).await.unwrap();
    assert_eq!(events(&mut watch, 1).await.len(), 1);

    etcd.signal("STOP");

    // A ping of 10 s, its answer's 5 s, and what a loaded machine adds.
    closed(&mut watch, Duration::from_secs(17)).await;
}

#[tokio::test]
async fn watches_of_a_killed_server_close_and_resume_without_loss() {
    let etcd = EtcdProcess::start(&[]).await;
    let store = etcd.store().await;
    for n in 0..5 {
        write(&store, &format!("/k{n}")).await;
    }
    let mut first = store.watch(everything()).await.unwrap();
    let mut second = store.watch(everything()).await.unwrap();
    let mut seen = events(&mut first, 5).await;

    etcd.kill();
    closed(&mut first, Duration::from_secs(15)).await;
    closed(&mut second, Duration::from_secs(15)).await;
    assert!(store.watch(everything()).await.unwrap_err().is_transient());
    etcd.start_again().await;
    eventually("writes after the restart", || async { store.txn(put("/k5", Vec::new())).await.map(drop) }).await;
    write(&store, "/k6").await;
    let from = seen.last().unwrap().revision() + 1;
    let mut resumed = store.watch(WatchRequest { from, ..everything() }).await.unwrap();
    seen.extend(events(&mut resumed, 2).await);

    let keys: Vec<_> = seen.iter().map(|event| String::from_utf8_lossy(event.key()).into_owned()).collect();
    assert_eq!(keys, ["/k0", "/k1", "/k2", "/k3", "/k4", "/k5", "/k6"]);
}

#[tokio::test]
async fn a_lease_outlives_a_restart_of_the_server_and_is_kept_alive_again() {
    let etcd = EtcdProcess::start(&[]).await;
    let store = etcd.store().await;
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    assert_eq!(store.keep_alive(lease.id).await.unwrap(), lease.ttl);

    etcd.kill();
    assert!(store.keep_alive(lease.id).await.unwrap_err().is_transient());
    etcd.start_again().await;

    eventually("the lease", || async {
        match store.keep_alive(lease.id).await {
            Ok(ttl) if ttl == lease.ttl => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn large_revisions_arrive_whole_in_spite_of_fragments() {
    let etcd = EtcdProcess::start(&[]).await;
    let store = etcd.store().await;
    const REVISIONS: usize = 6;
    for revision in 0..REVISIONS {
        let put = |n| Op::put(format!("/{revision}/{n:03}").into_bytes(), vec![b'x'; 14_000]);
        store.txn(Txn { then: (0..100).map(put).collect(), ..Txn::default() }).await.unwrap();
    }

    let mut watch = store.watch(everything()).await.unwrap();
    let mut sizes = std::collections::BTreeMap::new();
    let mut last = 0;
    while sizes.values().sum::<usize>() < REVISIONS * 100 {
        let item = timeout(Duration::from_secs(60), watch.next()).await.unwrap();
        let events = outcome!(item, WatchItem::Events { events, .. } => events);
        assert!(events[0].revision() > last, "revision {last} was split");
        last = events.last().unwrap().revision();
        for event in events {
            *sizes.entry(event.revision()).or_insert(0) += 1;
        }
    }

    assert_eq!(sizes.into_values().collect::<Vec<_>>(), [100; REVISIONS]);
    assert_eq!(keys(&store, "/").await.unwrap().len(), REVISIONS * 100);
}

#[tokio::test]
async fn a_watch_that_is_not_read_holds_up_no_other_and_loses_nothing_unnoticed() {
    let etcd = EtcdProcess::start(&[]).await;
    let store = etcd.store().await;
    let mut unread = store.watch(everything()).await.unwrap();
    let mut read = store.watch(everything()).await.unwrap();

    for n in 0..400 {
        write(&store, &format!("/{n:03}")).await;
        assert_eq!(events(&mut read, 1).await.len(), 1);
    }

    let mut seen = Vec::new();
    let reason = loop {
        match timeout(Duration::from_secs(60), unread.next()).await.unwrap() {
            WatchItem::Events { events, .. } => seen.extend(events.iter().map(|e| e.revision()).collect::<Vec<_>>()),
            WatchItem::Progress { .. } => {}
            WatchItem::Closed { reason } => break reason,
            other @ WatchItem::Compacted { .. } => panic!("{other:?}"),
        }
    };
    assert!(seen.len() < 400 && seen.windows(2).all(|pair| pair[1] == pair[0] + 1), "{reason}: {seen:?}");
}

#[tokio::test]
async fn idle_watches_report_progress() {
    let etcd = EtcdProcess::start(&[]).await;
    let store = etcd.store().await;
    let last = write(&store, "/a").await;
    let mut watch = store.watch(everything()).await.unwrap();
    assert_eq!(events(&mut watch, 1).await.len(), 1);

    let item = timeout(Duration::from_secs(60), watch.next()).await.unwrap();

    assert_eq!(item, WatchItem::Progress { revision: last });
}

#[tokio::test]
async fn a_full_store_is_read_only() {
    let etcd = EtcdProcess::start(&["--quota-backend-bytes", "2000000"]).await;
    let store = etcd.store().await;
    // The server notices its size when it has written to disk, a little later.
    eventually("the store to fill", || async {
        match store.txn(put("/filling", vec![b'x'; 1_000_000])).await {
            Err(error @ StoreError::ReadOnly { .. }) => {
                assert!(error.to_string().contains("disarm its alarm"), "{error}");
                Ok(())
            }
            other => Err(other),
        }
    })
    .await;

    assert!(!keys(&store, "/").await.unwrap().is_empty());
    assert_eq!(store.endpoint(), etcd.url());
}

#[tokio::test]
async fn a_server_with_certificates_serves_only_those_who_have_one() {
    let directory = tempfile::TempDir::new().unwrap();
    let certificates = Certificates::make(directory.path());
    let etcd = EtcdProcess::start_encrypted(&certificates.etcd_arguments(), certificates.pem("client")).await;
    let store =
        EtcdStore::connect(EtcdOptions::parse(&[etcd.url()], certificates.pem("client")).unwrap()).await.unwrap();

    write(&store, "/tls").await;
    let mut watch = store.watch(everything()).await.unwrap();
    assert_eq!(events(&mut watch, 1).await.len(), 1);

    let anonymous = Pem { cert: None, key: None, ..certificates.pem("client") };
    let stranger = Pem { ca: certificates.pem("stranger").cert, ..certificates.pem("client") };
    for pem in [anonymous, stranger] {
        let store = EtcdStore::connect(EtcdOptions::parse(&[etcd.url()], pem).unwrap()).await.unwrap();
        let error = store.txn(put("/refused", Vec::new())).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    }
    assert_eq!(keys(&store, "/").await.unwrap(), ["/tls"]);
}

/// Certificates of an authority of the test's own, made with the program `openssl`.
struct Certificates<'a>(&'a std::path::Path);

impl<'a> Certificates<'a> {
    fn make(directory: &'a std::path::Path) -> Self {
        let made = Self(directory);
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let request = |arguments: &[&str]| made.openssl(&[&["req"], key.as_slice(), arguments].concat());
        for authority in ["ca", "stranger"] {
            let (file, keyfile, name) =
                (format!("{authority}.pem"), format!("{authority}.key"), format!("/CN={authority}"));
            request(&["-x509", "-keyout", &keyfile, "-out", &file, "-days", "2", "-subj", &name]);
        }
        for holder in ["server", "client"] {
            let (file, keyfile, csr) = (format!("{holder}.pem"), format!("{holder}.key"), format!("{holder}.csr"));
            let name = format!("/CN={holder}");
            request(&["-keyout", &keyfile, "-out", &csr, "-subj", &name, "-addext", "subjectAltName=IP:127.0.0.1"]);
            let sign = ["x509", "-req", "-in", &csr, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
            made.openssl(&[&sign[..], &["-days", "2", "-copy_extensions", "copy", "-out", &file]].concat());
        }
        made
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = std::process::Command::new("openssl").current_dir(self.0).args(arguments).output();
        let output = output.expect("this test needs the program openssl: install the package openssl");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    #[expect(clippy::disallowed_methods, reason = "certificates that the test has made")]
    fn pem(&self, holder: &str) -> Pem {
        let read = |name: String| Some(std::fs::read(self.0.join(name)).unwrap());
        Pem { ca: read("ca.pem".to_owned()), cert: read(format!("{holder}.pem")), key: read(format!("{holder}.key")) }
    }

    fn etcd_arguments(&self) -> Vec<String> {
        let path = |name: &str| self.0.join(name).to_str().unwrap().to_owned();
        let flags = [("--cert-file", "server.pem"), ("--key-file", "server.key"), ("--trusted-ca-file", "ca.pem")];
        let mut arguments: Vec<_> = flags.iter().flat_map(|(flag, file)| [(*flag).to_owned(), path(file)]).collect();
        arguments.push("--client-cert-auth".to_owned());
        arguments
    }
}
