//! Which watch a response belongs to, and what it says to it.
//!
//! Pure but for the channels at the ends: fragments are collected until their revision is complete, and what a watch has
//! had already is dropped, because a member that lags or was restored may send it again.

use std::collections::{BTreeMap, VecDeque};

use etcd_client::WatchResponse;
use tokio::sync::{mpsc, oneshot};

use crate::{
    store::{Event, WatchItem, WatchRequest, etcd::wire},
    txn::Revision,
};

/// Ids are ours from 1 on; 0 would let etcd choose.
pub(super) const FIRST_ID: i64 = 1;

/// A watch that is to be opened.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) request: WatchRequest,
    pub(super) items: mpsc::Sender<WatchItem>,
    /// Where it is told whether etcd accepted the watch, and if not why.
    pub(super) confirm: oneshot::Sender<Result<(), String>>,
}

#[derive(Debug, Default)]
pub(super) struct Routes {
    routes: BTreeMap<i64, Route>,
    /// Created watches are confirmed in the order in which they were asked for; a refused one has no id.
    unconfirmed: VecDeque<i64>,
    opened: i64,
}

#[derive(Debug)]
pub(super) struct Route {
    pub(super) items: mpsc::Sender<WatchItem>,
    confirm: Option<oneshot::Sender<Result<(), String>>>,
    assembly: Assembly,
}

impl Routes {
    /// The id that the next watch to be added gets.
    pub(super) fn next_id(&self) -> i64 {
        FIRST_ID + self.opened
    }

    pub(super) fn add(&mut self, opening: Opening) {
        let id = self.next_id();
        self.opened += 1;
        self.unconfirmed.push_back(id);
        let assembly = Assembly { delivered: opening.request.from.max(1) - 1, partial: Vec::new() };
        self.routes.insert(id, Route { items: opening.items, confirm: Some(opening.confirm), assembly });
    }

    pub(super) fn get(&self, id: i64) -> Option<&Route> {
        self.routes.get(&id)
    }

    pub(super) fn remove(&mut self, id: i64) {
        self.routes.remove(&id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The watches that nobody listens to.
    pub(super) fn abandoned(&self) -> Vec<i64> {
        self.routes.iter().filter(|(_, route)| route.items.is_closed()).map(|(id, _)| *id).collect()
    }

    /// Takes in a response; answers what is to be handed out, to whom.
    pub(super) fn receive(&mut self, response: &WatchResponse) -> Option<(i64, WatchItem)> {
        let id = match response.created().then(|| self.unconfirmed.pop_front()).flatten() {
            Some(unconfirmed) => unconfirmed,
            None => response.watch_id(),
        };
        let route = self.routes.get_mut(&id)?;
        if response.created() {
            route.confirm(response);
        }
        if response.canceled() {
            if let Some(route) = self.routes.remove(&id) {
                route.end(ending(response));
            }
            return None;
        }
        let header = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        if response.events().is_empty() {
            let progress = !response.created() && route.assembly.partial.is_empty() && header > 0;
            return progress.then_some((id, WatchItem::Progress { revision: header }));
        }
        let events = response.events().iter().filter_map(wire::event);
        let events = route.assembly.add(events, response.0.fragment);
        (!events.is_empty()).then_some((id, WatchItem::Events { events, revision: header }))
    }

    /// Tells every watch that the stream is gone.
    pub(super) fn close_all(self, reason: &str) {
        for route in self.routes.into_values() {
            route.end(WatchItem::Closed { reason: reason.to_owned() });
        }
    }
}

impl Route {
    fn confirm(&mut self, response: &WatchResponse) {
        let refused = response.canceled() && response.compact_revision() == 0;
        let answer = if refused { Err(response.cancel_reason().to_owned()) } else { Ok(()) };
        if let Some(confirm) = self.confirm.take() {
            // Whoever asked has given up waiting; the next sweep ends the watch.
            confirm.send(answer).unwrap_or_default();
        }
    }

    /// Says the last word. Where the queue is full, the end of the channel says it.
    fn end(self, item: WatchItem) {
        self.items.try_send(item).unwrap_or_default();
    }
}

/// The reason text is empty in etcd 3.4 where history was compacted: only the revision tells.
fn ending(response: &WatchResponse) -> WatchItem {
    match response.compact_revision() {
        0 => WatchItem::Closed { reason: response.cancel_reason().to_owned() },
        revision => WatchItem::Compacted { revision },
    }
}

/// Puts the fragments of large responses together.
#[derive(Debug)]
struct Assembly {
    /// The last revision that was handed out.
    delivered: Revision,
    /// Events of a revision that may not be complete.
    partial: Vec<Event>,
}

impl Assembly {
    /// Takes in events; answers those of complete revisions that were not handed out before.
    fn add(&mut self, events: impl Iterator<Item = Event>, more_follows: bool) -> Vec<Event> {
        for event in events {
            let newest = self.partial.last().map_or(self.delivered + 1, Event::revision);
            if event.revision() >= newest {
                self.partial.push(event);
            }
        }
        let open = self.partial.last().filter(|_| more_follows).map(Event::revision);
        let complete = self.partial.partition_point(|event| Some(event.revision()) != open);
        let rest = self.partial.split_off(complete);
        let ready = std::mem::replace(&mut self.partial, rest);
        self.delivered = ready.last().map_or(self.delivered, Event::revision);
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: Revision) -> Event {
        Event::Delete { key: vec![1], revision }
    }

    fn revisions(events: &[Event]) -> Vec<Revision> {
        events.iter().map(Event::revision).collect()
    }

    #[test]
    fn a_revision_that_is_split_over_fragments_is_handed_out_once_and_whole() {
        let mut assembly = Assembly { delivered: 4, partial: Vec::new() };

        let first = assembly.add([at(5), at(6), at(6)].into_iter(), true);
        let second = assembly.add([at(6), at(7)].into_iter(), true);
        let last = assembly.add([at(7)].into_iter(), false);

        assert_eq!(revisions(&first), [5]);
        assert_eq!(revisions(&second), [6, 6, 6]);
        assert_eq!(revisions(&last), [7, 7]);
    }

    #[test]
    fn what_was_handed_out_before_is_dropped() {
        let mut assembly = Assembly { delivered: 4, partial: Vec::new() };

        let first = assembly.add([at(3), at(4), at(5), at(5)].into_iter(), false);
        let again = assembly.add([at(4), at(5), at(6)].into_iter(), false);

        assert_eq!(revisions(&first), [5, 5]);
        assert_eq!(revisions(&again), [6]);
    }
}
