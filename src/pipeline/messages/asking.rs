//! The pages of conversations that are compared: asked for when nothing else is to be, and what follows where one is not answered.
//! Nothing of that holds up anything but the comparison.

use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use crate::pipeline::messages::conversation::Reason;
use crate::pipeline::messages::doubt::Fault;
use crate::pipeline::messages::looks::{Current, Outcome, named_in_refusals};
use crate::pipeline::messages::runner::MessageRunner;
use crate::pipeline::messages::seam::MessageBatch;
use crate::pipeline::messages::setback::{Concern, Setback};
use crate::salesforce::conversation_entries::{EntriesPage, Place};
use crate::salesforce::rest::RestError;

/// One call may take so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// So often one is asked for that no other can stand in for: with the pauses, minutes of server errors and half an hour of refusals.
const MOST_ATTEMPTS: u32 = 7;

/// So many others stand in for one that failed, beside the one that was read last: each call makes its conversation active.
const OTHERS: usize = 3;

impl MessageRunner {
    /// Reads the next page of a conversation, and compares it. What fails lets the comparison wait and nothing else. Returns
    /// whether the comparison went on.
    pub(super) async fn compare(&mut self, id: &str) -> Result<bool, Setback> {
        if self.doubt.is_of(id)
            && let Some(other) = self.another_than(id)
        {
            self.ask_another(&other).await;
            return Ok(!self.comparing.waits());
        }
        match self.compare_page(id).await {
            Err(Setback::Gone) => Err(Setback::Gone),
            Err(setback) => {
                self.comparing.wait_for(&setback);
                Ok(false)
            }
            Ok(()) => Ok(!self.comparing.waits()),
        }
    }

    async fn compare_page(&mut self, id: &str) -> Result<(), Setback> {
        let now = self.now();
        let current = self.comparing.current.take().filter(|current| current.id == id);
        let mut current = current.unwrap_or_else(|| self.begin_to_compare(id, now));
        if current.bounds.to < current.bounds.from {
            return self.conclude(current, Outcome::UnderWay, MessageBatch::default()).await;
        }
        if self.refusals(&named_in_refusals(id)) > 0 {
            return self.conclude(current, Outcome::Unreadable, MessageBatch::default()).await;
        }
        current.calls += 1;
        let page = self.page_to_compare(id, current.walk.place()).await;
        let page = page.and_then(|page| current.walk.take(page, now));
        let stretch = match page.map_err(self.entries_setback()) {
            Ok(stretch) => stretch,
            Err(setback) => return self.not_read(current, setback).await,
        };
        self.answered(id);
        self.comparing.was_read(id);
        match stretch {
            None => self.comparing.current = Some(current),
            Some(stretch) if current.first.is_some() => self.look_again(current, stretch).await?,
            Some(stretch) => self.look(current, stretch).await?,
        }
        Ok(())
    }

    /// One call for entries.
    async fn page_to_compare(&mut self, id: &str, place: &Place) -> Result<EntriesPage, RestError> {
        self.budget.take(id, Instant::now());
        self.context.board.update(|status| status.messages.get_or_insert_default().fetches += 1);
        self.entries.page(id, place, Instant::now() + PATIENCE).await
    }

    /// A page failed: the conversation cannot be read, or the comparison waits where it is.
    async fn not_read(&mut self, current: Current, setback: Setback) -> Result<(), Setback> {
        let id = current.id.clone();
        let unreadable = match setback.concerns() {
            Concern::One => true,
            Concern::All => false,
            Concern::Perhaps => {
                let fault = self.doubt.failed(&id, self.is_in_vain(&id));
                let alone = self.doubt.times(&id) >= MOST_ATTEMPTS && self.another_than(&id).is_none();
                if fault != Fault::Own && !alone {
                    let (own, others) = self.doubt.pauses(&setback, fault, Reason::Reconcile);
                    // Where there is another one it is asked next.
                    let wait = if self.another_than(&id).is_some() { others } else { own };
                    self.comparing.wait(wait, &setback);
                    self.comparing.current = Some(current);
                    return Ok(());
                }
                true
            }
        };
        if !unreadable {
            self.comparing.current = Some(current);
            return Err(setback);
        }
        debug!(conversation = id, error = setback.failure().what, "a conversation cannot be compared");
        self.conclude(current, Outcome::Unreadable, MessageBatch::default()).await
    }

    /// A conversation that can be asked for in the place of one that failed, to see whose fault that is: one that has not failed
    /// itself, if there is one.
    fn another_than(&self, id: &str) -> Option<String> {
        let others = || self.comparing.others_than(id).filter(|other| self.budget.admits_spare(other)).take(OTHERS + 1);
        others().find(|other| !self.doubt.is_of(other)).or_else(|| others().next()).cloned()
    }

    /// Asks for the newest entries of a conversation only to see whether they can be read.
    async fn ask_another(&mut self, id: &str) {
        if let Some(current) = &mut self.comparing.current {
            current.calls += 1;
        }
        let newest = Place::at(self.now());
        match self.page_to_compare(id, &newest).await.map_err(self.entries_setback()) {
            Ok(_) => self.answered(id),
            // What is the matter with this conversation alone, an org says that answers.
            Err(setback) if setback.concerns() == Concern::One => self.answered(id),
            Err(setback) if setback.concerns() == Concern::All => self.comparing.wait_for(&setback),
            Err(setback) => {
                let fault = self.doubt.failed(id, self.is_in_vain(id));
                let (own, others) = self.doubt.pauses(&setback, fault, Reason::Reconcile);
                self.comparing.wait(if fault == Fault::Everybody { others } else { own }, &setback);
            }
        }
    }
}
