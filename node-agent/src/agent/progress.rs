//! What is told of an agent while it runs, for whoever manages services: that it serves, and how it stands with the store.

use std::convert::Infallible;

use tokio::sync::oneshot;

use crate::control::registration::{Registration, Standing};

/// News of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Its socket is served, and so is Docker's plugin socket where Docker was there at the start. Told once. Neither the
    /// store nor an engine need have answered.
    Serving,
    /// How it stands, in words; told when that changes.
    Standing(String),
}

/// Tells what there is to tell, for as long as it is polled. `docker` ends when nobody has to wait for the plugin socket
/// any longer.
pub(super) async fn tell_progress(
    docker: oneshot::Receiver<Infallible>,
    mut registration: Registration,
    tell: impl Fn(Progress),
) -> Infallible {
    docker.await.ok();
    tell(Progress::Serving);
    let mut told = None;
    loop {
        let words = words(&registration);
        if told.as_ref() != Some(&words) {
            told = Some(words.clone());
            tell(Progress::Standing(words));
        }
        tokio::select! {
            // Both cancel-safe: a change stays until it is seen.
            Ok(()) = registration.standing.changed() => {}
            Ok(()) = registration.health.changed() => {}
            // The registration has ended, and the agent with it.
            else => std::future::pending().await,
        }
    }
}

fn words(registration: &Registration) -> String {
    let standing = match &*registration.standing.borrow() {
        Standing::Active(_) => "registered".to_owned(),
        Standing::Draining(_) => "registered, draining".to_owned(),
        Standing::Lost => "declared lost; coming back".to_owned(),
        // Says already how the store is.
        Standing::Registering { why } => return format!("not registered: {why}"),
    };
    let away = !registration.health.borrow().reachable;
    if away { format!("{standing}; the store does not answer") } else { standing }
}
