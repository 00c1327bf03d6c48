//! A bound on things under way, in total and per client, so that one container cannot use up what all share.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// One client may have this part of the whole.
const CLIENT_SHARE: usize = 4;

/// Counts what is under way.
#[derive(Debug, Clone)]
pub(super) struct Quota {
    total: usize,
    used: Arc<Mutex<Used>>,
}

#[derive(Debug, Default)]
struct Used {
    total: usize,
    by_client: BTreeMap<IpAddr, usize>,
}

/// One thing under way; ends with its drop.
#[derive(Debug)]
pub(super) struct Permit {
    client: IpAddr,
    used: Arc<Mutex<Used>>,
}

impl Quota {
    pub(super) fn new(total: usize) -> Self {
        Self { total, used: Arc::default() }
    }

    /// Admits one more thing for a client, if neither the client nor all together have too many.
    pub(super) fn admit(&self, client: IpAddr) -> Option<Permit> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = used.by_client.get(&client).copied().unwrap_or(0);
        if used.total >= self.total || mine >= self.total.div_ceil(CLIENT_SHARE) {
            return None;
        }
        used.total += 1;
        used.by_client.insert(client, mine + 1);
        Some(Permit { client, used: Arc::clone(&self.used) })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.total -= 1;
        match used.by_client.get_mut(&self.client) {
            Some(mine) if *mine > 1 => *mine -= 1,
            _ => {
                used.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_gets_a_quarter_and_all_get_the_whole() {
        let quota = Quota::new(8);
        let clients: Vec<IpAddr> = (1..=5).map(|i| IpAddr::from([10, 32, 0, i])).collect();

        let mut held: Vec<Permit> = Vec::new();
        for client in &clients[..4] {
            held.extend((0..2).map(|_| quota.admit(*client).unwrap()));
            assert!(quota.admit(*client).is_none(), "{client} has its share");
        }
        assert!(quota.admit(clients[4]).is_none(), "the whole is used up");
        held.truncate(7);

        assert!(quota.admit(clients[0]).is_none());
        held.push(quota.admit(clients[4]).unwrap());
        drop(held);
        assert_eq!(quota.used.lock().unwrap().total, 0);
        assert!(quota.used.lock().unwrap().by_client.is_empty());
    }
}
