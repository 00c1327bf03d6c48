//! How the agent's tasks speak to the reconciler: through its queue, and nothing else.

use std::{
    collections::BTreeSet,
    sync::mpsc::{self, Sender},
};

use tokio::sync::oneshot;
use weft_overlay::{
    kernel::{Kernel, ObjectId},
    view::NodeView,
};

use crate::reconciler::{Doubt, Input, Reconciler, Settled};

/// The sending end of the reconciler's queue.
#[derive(Debug)]
pub struct Handle<K> {
    inputs: Sender<Input<K>>,
}

impl<K> Clone for Handle<K> {
    fn clone(&self) -> Self {
        Self { inputs: self.inputs.clone() }
    }
}

/// The reconciler's thread has ended: the agent is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent is shutting down")]
pub struct ShuttingDown;

impl<K: Kernel + 'static> Handle<K> {
    /// A queue: its sending end for the tasks, its receiving end for the reconciler.
    pub fn channel() -> (Self, mpsc::Receiver<Input<K>>) {
        let (inputs, received) = mpsc::channel();
        (Self { inputs }, received)
    }

    /// Changes the view; the kernel follows in the next pass.
    pub fn change(&self, change: impl FnOnce(&mut NodeView) -> BTreeSet<ObjectId> + Send + 'static) {
        // Without a reconciler nobody needs the change any more.
        self.inputs.send(Input::Change { change: Box::new(change), done: None }).ok();
    }

    /// Changes the view and waits until the kernel has followed; answers what could not be done of it.
    ///
    /// # Errors
    /// When the agent is shutting down.
    pub async fn settle(
        &self,
        change: impl FnOnce(&mut NodeView) -> BTreeSet<ObjectId> + Send + 'static,
    ) -> Result<Settled, ShuttingDown> {
        let (done, settled) = oneshot::channel();
        self.inputs.send(Input::Change { change: Box::new(change), done: Some(done) }).map_err(|_| ShuttingDown)?;
        settled.await.map_err(|_| ShuttingDown)
    }

    /// Casts doubt on what was observed.
    pub fn doubt(&self, doubts: Vec<Doubt>) {
        self.inputs.send(Input::Doubts(doubts)).ok();
    }

    /// Looks at the reconciler.
    ///
    /// # Errors
    /// When the agent is shutting down.
    pub async fn ask<R: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Reconciler<K>) -> R + Send + 'static,
    ) -> Result<R, ShuttingDown> {
        let (answer, answered) = oneshot::channel();
        // The asker may have given up.
        let ask = move |reconciler: &mut Reconciler<K>| {
            answer.send(look(reconciler)).ok();
        };
        self.inputs.send(Input::Ask(Box::new(ask))).map_err(|_| ShuttingDown)?;
        answered.await.map_err(|_| ShuttingDown)
    }

    /// Looks at the view.
    ///
    /// # Errors
    /// When the agent is shutting down.
    pub async fn view<R: Send + 'static>(
        &self,
        look: impl FnOnce(&NodeView) -> R + Send + 'static,
    ) -> Result<R, ShuttingDown> {
        self.ask(move |reconciler| look(reconciler.view())).await
    }
}
