//! Time: leases end when they should, are not revived, and survive a server that stood still.

use std::time::{Duration, Instant};

use etcd_client::{Client, LeaseGrantOptions, PutOptions, WatchOptions};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    conformance::check_revoke,
    servers::{Server, scratch},
};

/// A lease whose time is over stays over, however soon it is asked for.
async fn check_expiry(server: &Server) -> Result<(), String> {
    let mut client = server.client().await;
    client.lease_grant(2, Some(LeaseGrantOptions::new().with_id(1))).await.map_err(|error| error.to_string())?;
    // The server looks at its leases half a second after each request: the last look before the question is then before
    // the end of the lease.
    tokio::time::sleep(Duration::from_millis(250)).await;
    client.leases().await.map_err(|error| error.to_string())?;
    tokio::time::sleep(Duration::from_millis(1850)).await;
    // Refused, or renewed for no time: both say that it has ended.
    let Ok((mut keeper, mut stream)) = client.lease_keep_alive(1).await else { return Ok(()) };
    keeper.keep_alive().await.map_err(|error| error.to_string())?;
    let ttl = stream.message().await.map_err(|error| error.to_string())?.map_or(0, |kept| kept.ttl());
    if ttl == 0 { Ok(()) } else { Err(format!("renewed for {ttl} s after its time")) }
}

/// A lease that is kept alive outlives a stop of its server of three times its time.
async fn check_stall(server: &Server) -> Result<(), String> {
    let mut client = server.client().await;
    client.lease_grant(4, Some(LeaseGrantOptions::new().with_id(1))).await.map_err(|error| error.to_string())?;
    client.put("a", "1", Some(PutOptions::new().with_lease(1))).await.map_err(|error| error.to_string())?;
    let pid = Pid::from_raw(i32::try_from(server.child.id()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    tokio::time::sleep(Duration::from_secs(12)).await;
    kill(pid, Signal::SIGCONT).unwrap();
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        if client.get("a", None).await.map_err(|error| error.to_string())?.count() == 0 {
            return Err("the key of the lease is gone".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn client_of(server: &Server) -> Client {
    server.client().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_ends_in_time_and_takes_its_keys_along() {
    let directory = scratch();
    let server = Server::ours(directory.path(), None);
    let mut client = client_of(&server).await;
    let mut stream = client.watch("a", Some(WatchOptions::new())).await.unwrap();
    let granted = Instant::now();
    client.lease_grant(2, Some(LeaseGrantOptions::new().with_id(50))).await.unwrap();
    client.put("a", "1", Some(PutOptions::new().with_lease(50))).await.unwrap();

    let deleted = async {
        while !stream.message().await.unwrap().unwrap().events().iter().any(|event| event.event_type() as i32 == 1) {}
    };
    tokio::time::timeout(Duration::from_secs(10), deleted).await.expect("the key goes with its lease");
    let lived = granted.elapsed();
    assert!((2.0..4.0).contains(&lived.as_secs_f64()), "{lived:?}");
    assert_eq!(check_expiry(&server).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_revived_after_its_time_is_found() {
    // Between the end of the lease and the server's next look at it there are 150 ms, which a busy machine may miss.
    const ATTEMPTS: u32 = 10;
    let directory = scratch();
    let server = Server::ours(directory.path(), Some("ReviveLease"));
    for _ in 0..ATTEMPTS {
        if check_expiry(&server).await.is_err() {
            return;
        }
    }
    panic!("not found in {ATTEMPTS} attempts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stood_still_expires_nothing_on_waking() {
    let (directory, other) = (scratch(), scratch());
    let (server, faulty) = (Server::ours(directory.path(), None), Server::ours(other.path(), Some("NoStallGuard")));

    let (right, wrong) = tokio::join!(check_stall(&server), check_stall(&faulty));

    assert_eq!(right, Ok(()));
    assert!(wrong.is_err(), "{wrong:?}");
}

#[tokio::test]
async fn keys_of_a_lease_that_go_one_by_one_are_found() {
    let directory = scratch();
    let server = Server::ours(directory.path(), Some("RevokeInSteps"));
    let found = check_revoke(&mut client_of(&server).await).await;
    assert!(found.is_err(), "{found:?}");
}
