//! The tasks beside the events of an attempt: the runners of jobs and of messages.
//!
//! Neither may end before the attempt does. One that is gone leaves gaps open and messages unfetched, and its channel says
//! no more of it than one that has nothing to do. So the attempt ends with it, in order: what came is committed, and
//! the next attempt begins both again from the checkpoint.

use std::future::{Future, pending};

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::failure::Failure;
use crate::pipeline::stop::StreamError;

/// The tasks of one attempt.
pub struct Beside {
    /// Heals gaps and makes snapshots.
    pub jobs: AbortOnDropHandle<()>,
    /// Fetches messages; none where the stream is not to.
    pub messages: Option<AbortOnDropHandle<()>>,
}

impl Beside {
    /// Carries events to the end. If one of the tasks ends before that, `stations` are told to end, and the failure
    /// comes with what was carried.
    pub async fn carry<T>(
        &mut self,
        carrying: impl Future<Output = T>,
        stations: &CancellationToken,
    ) -> (T, Option<Failure>) {
        tokio::pin!(carrying);
        let failure = tokio::select! {
            biased;
            carried = &mut carrying => return (carried, None),
            failure = ended("heals gaps", Some(&mut self.jobs), stations) => failure,
            failure = ended("fetches messages", self.messages.as_mut(), stations) => failure,
        };
        stations.cancel();
        (carrying.await, Some(failure))
    }

    /// Ends them, and waits until they have let go of what they hold. What they have not handed over by now is read again
    /// from the checkpoint.
    pub async fn end(self) {
        for task in std::iter::once(self.jobs).chain(self.messages) {
            task.abort();
            // One that ended by itself was waited for already.
            if !task.is_finished() {
                let _ = task.await;
            }
        }
    }
}

/// How a task ended that nobody told to. One that is told to, or that is not there, is waited for without end.
async fn ended(what: &'static str, task: Option<&mut AbortOnDropHandle<()>>, stations: &CancellationToken) -> Failure {
    let Some(task) = task else { return pending().await };
    let why = match task.await {
        Ok(()) if stations.is_cancelled() => return pending().await,
        Ok(()) => "it returned".to_owned(),
        Err(error) => error.to_string(),
    };
    StreamError::BesideEnded { what, why }.failure()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::failure::Exit;

    fn beside(jobs: impl Future<Output = ()> + Send + 'static) -> Beside {
        Beside { jobs: AbortOnDropHandle::new(tokio::spawn(jobs)), messages: None }
    }

    #[tokio::test]
    async fn a_task_that_panics_or_returns_ends_the_attempt_in_order_and_says_why() {
        for (panics, says) in [(true, "out of its mind"), (false, "it returned")] {
            let stations = CancellationToken::new();
            let mut beside = beside(async move { assert!(!panics, "out of its mind") });
            // Events are carried on until the stations have ended.
            let carrying = async {
                stations.cancelled().await;
                "all that came"
            };
            let (carried, failure) = beside.carry(carrying, &stations).await;
            let failure = failure.expect("a failure");
            assert_eq!((carried, failure.exit), ("all that came", Exit::Software));
            assert!(failure.what.contains("heals gaps") && failure.what.contains(says), "{failure:?}");
        }
    }

    #[tokio::test]
    async fn a_task_that_ends_because_the_stations_do_is_no_failure() {
        let stations = CancellationToken::new();
        let ending = stations.clone();
        let mut beside = beside(async move { ending.cancelled().await });
        let carrying = async {
            stations.cancel();
            tokio::task::yield_now().await;
        };
        assert_eq!(beside.carry(carrying, &stations).await, ((), None));
        let held = Arc::new(());
        let holding = held.clone();
        beside.messages = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let _held = holding;
            pending().await
        })));
        beside.end().await;
        assert_eq!(Arc::strong_count(&held), 1, "it has let go");
    }
}
