//! The members of the cluster as we see them: which one we talk to, and which ones to leave alone for a while.
//!
//! Sticky: an endpoint is kept until it fails. One that failed is passed over for a short time, unless all have.

use std::{
    fmt,
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
};

use etcd_client::Client;
use tokio::time::{Instant, timeout};

use super::{EtcdOptions, EtcdOptionsError, Timing, refusal};
use crate::{store::StoreError, txn::Revision};

pub(super) struct Endpoints {
    members: Vec<Member>,
    choice: Mutex<Choice>,
    pub(super) timing: Timing,
}

struct Member {
    url: String,
    client: Client,
}

/// What was asked for, so that an error can name it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    pub(super) revision: Revision,
    pub(super) lease: i64,
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<_> = self.members.iter().map(|member| &member.url).collect();
        f.debug_struct("Endpoints").field("members", &urls).field("choice", &self.choice).finish_non_exhaustive()
    }
}

impl Endpoints {
    pub(super) async fn prepare(options: EtcdOptions) -> Result<Self, EtcdOptionsError> {
        let mut members = Vec::new();
        for url in &options.endpoints {
            let client = Client::connect([url], Some(options.connect_options()))
                .await
                .map_err(|source| EtcdOptionsError::Client { endpoint: url.clone(), source })?;
            members.push(Member { url: url.clone(), client });
        }
        let choice = Choice { current: 0, suspended_until: vec![None; members.len()] };
        Ok(Self { members, choice: Mutex::new(choice), timing: options.timing })
    }

    pub(super) fn single(name: &str, client: Client) -> Self {
        let choice = Choice { current: 0, suspended_until: vec![None] };
        let members = vec![Member { url: name.to_owned(), client }];
        Self { members, choice: Mutex::new(choice), timing: Timing::default() }
    }

    /// Carries out a call at the current endpoint, and at further ones as long as it was certainly not sent.
    pub(super) async fn call<T, F, R>(&self, asked: Asked, call: F) -> Result<T, StoreError>
    where
        F: Fn(usize, Client) -> R,
        R: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut failed = None;
        for _ in &self.members {
            let member = self.choice().choose(Instant::now());
            let client = self.members[member].client.clone();
            match self.attempt(asked, member, call(member, client)).await {
                Err(Attempt { error, sent: false }) => failed = Some(error),
                answer => return answer.map_err(|attempt| attempt.error),
            }
        }
        Err(failed.expect("options have at least one endpoint"))
    }

    /// Carries out a call at one endpoint only.
    pub(super) async fn once<T>(
        &self,
        asked: Asked,
        member: usize,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, StoreError> {
        self.attempt(asked, member, call).await.map_err(|attempt| attempt.error)
    }

    /// Passes over an endpoint for a while.
    pub(super) fn failed(&self, member: usize, reason: &str) {
        let until = Instant::now() + self.timing.suspension;
        self.choice().suspend(member, until);
        tracing::debug!(endpoint = %self.members[member].url, reason, "store endpoint failed");
    }

    pub(super) fn url(&self, member: usize) -> &str {
        &self.members[member].url
    }

    pub(super) fn current_url(&self) -> String {
        let current = self.choice().current;
        self.members[current].url.clone()
    }

    async fn attempt<T>(
        &self,
        asked: Asked,
        member: usize,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Attempt> {
        let endpoint = self.url(member).to_owned();
        let (error, sent) = match timeout(self.timing.call, call).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => {
                let sent = refusal::was_sent(&error);
                (refusal::interpret(endpoint, &error, asked), sent)
            }
            Err(_) => {
                let reason = format!("no answer within {:?}", self.timing.call);
                (StoreError::Unavailable { endpoint, reason }, true)
            }
        };
        if let StoreError::Unavailable { reason, .. } = &error {
            self.failed(member, reason);
        }
        Err(Attempt { error, sent })
    }

    fn choice(&self) -> MutexGuard<'_, Choice> {
        self.choice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Attempt {
    error: StoreError,
    sent: bool,
}

#[derive(Debug)]
struct Choice {
    current: usize,
    suspended_until: Vec<Option<Instant>>,
}

impl Choice {
    /// The current endpoint, or the next one that is not suspended; where all are, the one whose suspension ends first.
    fn choose(&mut self, now: Instant) -> usize {
        let count = self.suspended_until.len();
        let order = (0..count).map(|step| (self.current + step) % count);
        let suspension = |member: &usize| self.suspended_until[*member].filter(|until| *until > now);
        self.current = order.min_by_key(suspension).unwrap_or(self.current);
        self.current
    }

    fn suspend(&mut self, member: usize, until: Instant) {
        self.suspended_until[member] = Some(until);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn choice(count: usize) -> (Choice, Instant) {
        (Choice { current: 0, suspended_until: vec![None; count] }, Instant::now())
    }

    #[test]
    fn stays_with_an_endpoint_that_works() {
        let (mut choice, now) = choice(3);

        assert_eq!([choice.choose(now), choice.choose(now)], [0, 0]);
    }

    #[test]
    fn moves_on_from_a_failed_endpoint_and_does_not_come_back_by_itself() {
        let (mut choice, now) = choice(3);
        choice.suspend(0, now + Duration::from_secs(2));

        assert_eq!(choice.choose(now), 1);
        assert_eq!(choice.choose(now + Duration::from_secs(60)), 1);
    }

    #[test]
    fn tries_the_endpoint_that_failed_longest_ago_when_all_have() {
        let (mut choice, now) = choice(3);
        for (member, seconds) in [(0, 3), (1, 1), (2, 2)] {
            choice.suspend(member, now + Duration::from_secs(seconds));
        }

        assert_eq!(choice.choose(now), 1);
    }
}
