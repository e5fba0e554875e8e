//! Prepared batches on their way to the run loop, in order, although some are ready later than those behind them.
//!
//! A batch that needs nothing goes straight through. For one that is being completed a promise takes its place in the
//! queue, so that order is kept by the queue itself and nobody has to sort.

use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use crate::pipeline::prepared::Prepared;

/// A batch, or the promise of one.
#[allow(clippy::large_enum_variant, reason = "nearly all are ready, and a box for each would cost more than the room")]
pub enum HandOver {
    /// Complete.
    Ready(Prepared),
    /// Being completed elsewhere.
    Later(oneshot::Receiver<Prepared>),
}

/// The run loop's end of the queue.
pub struct PreparedQueue {
    queue: mpsc::Receiver<HandOver>,
    /// The first in the queue, if it is not ready.
    first: Option<oneshot::Receiver<Prepared>>,
}

impl PreparedQueue {
    /// Over a channel.
    pub fn new(queue: mpsc::Receiver<HandOver>) -> Self {
        Self { queue, first: None }
    }

    /// The next batch; `None` when nothing more comes. May be dropped while it waits: nothing is lost.
    ///
    /// A promise that is broken ends the queue: what stands behind it must not be committed without it.
    pub async fn recv(&mut self) -> Option<Prepared> {
        loop {
            if let Some(later) = &mut self.first {
                let kept = later.await;
                self.first = None;
                return kept.map_err(|_| self.end()).ok();
            }
            match self.queue.recv().await? {
                HandOver::Ready(prepared) => return Some(prepared),
                HandOver::Later(later) => self.first = Some(later),
            }
        }
    }

    /// The next batch if it is there.
    pub fn try_recv(&mut self) -> Option<Prepared> {
        if self.first.is_none() {
            match self.queue.try_recv().ok()? {
                HandOver::Ready(prepared) => return Some(prepared),
                HandOver::Later(later) => self.first = Some(later),
            }
        }
        let kept = self.first.as_mut()?.try_recv();
        if matches!(kept, Err(TryRecvError::Empty)) {
            return None;
        }
        self.first = None;
        kept.map_err(|_| self.end()).ok()
    }

    /// Whatever is in the queue is dropped, so that nothing is ever received again.
    fn end(&mut self) {
        self.queue.close();
        while self.queue.try_recv().is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Anchor, Position};

    fn batch(name: &str) -> Prepared {
        let mut prepared =
            Prepared::empty(Position::starting(Anchor::Earliest { since: chrono::DateTime::UNIX_EPOCH }));
        prepared.bytes = name.len();
        prepared
    }

    #[tokio::test]
    async fn order_is_kept_whatever_is_ready_first() {
        let (sender, queue) = mpsc::channel(9);
        let mut queue = PreparedQueue::new(queue);
        let (late, later) = oneshot::channel();
        for item in [HandOver::Ready(batch("1")), HandOver::Later(later), HandOver::Ready(batch("333"))] {
            assert!(sender.send(item).await.is_ok());
        }
        drop(sender);
        assert_eq!(queue.recv().await.map(|prepared| prepared.bytes), Some(1));
        assert!(queue.try_recv().is_none(), "the second is not ready");
        tokio::select! {
            biased;
            _ = queue.recv() => panic!("nothing is ready"),
            () = std::future::ready(()) => {}
        }
        assert!(late.send(batch("22")).is_ok());
        assert_eq!(queue.try_recv().map(|prepared| prepared.bytes), Some(2), "a dropped wait has lost nothing");
        assert_eq!(queue.recv().await.map(|prepared| prepared.bytes), Some(3));
        assert!(queue.recv().await.is_none());
    }

    #[tokio::test]
    async fn what_stands_behind_a_broken_promise_never_comes_out() {
        for look_first in [false, true] {
            let (sender, queue) = mpsc::channel(9);
            let mut queue = PreparedQueue::new(queue);
            let (broken, later) = oneshot::channel::<Prepared>();
            assert!(sender.send(HandOver::Later(later)).await.is_ok());
            assert!(sender.send(HandOver::Ready(batch("behind"))).await.is_ok());
            drop(broken);
            if look_first {
                assert!(queue.try_recv().is_none());
            }
            assert!(queue.recv().await.is_none());
            assert!(queue.try_recv().is_none());
            assert!(sender.send(HandOver::Ready(batch("later"))).await.is_err(), "and nobody goes on sending");
        }
    }
}
