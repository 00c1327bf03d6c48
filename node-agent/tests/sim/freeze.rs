//! A process that can be stopped: while it is frozen nothing in it is polled, whatever happens to its timers.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

#[derive(Debug, Default)]
pub(crate) struct Freeze {
    state: Mutex<(bool, Option<Waker>)>,
}

impl Freeze {
    pub(crate) fn set(&self, frozen: bool) {
        let mut state = self.state.lock().unwrap();
        state.0 = frozen;
        if !frozen && let Some(waker) = state.1.take() {
            waker.wake();
        }
    }
}

pub(crate) struct Freezable {
    pub(crate) freeze: Arc<Freeze>,
    pub(crate) process: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Future for Freezable {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        {
            let freeze = self.freeze.clone();
            let mut state = freeze.state.lock().unwrap();
            if state.0 {
                state.1 = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        self.process.as_mut().poll(cx)
    }
}
