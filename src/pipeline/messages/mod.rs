//! Messages: what was said in the conversations of messaging sessions, which no event carries.
//!
//! | file | duty |
//! |---|---|
//! | `conversation` | what is known of one conversation, as it is kept in Kafka |
//! | `desk` | what the run loop and the runner share: the triggers that are not fetched yet |
//! | `seam` | what the runner hands to the run loop |
//! | `inlet` | the run loop's end of it |
//! | `reach` | whether the user may fetch messages at all |
//! | `runner` | the task that decides what is fetched next |
//! | `sessions` | which conversation a session belongs to, and which sessions are open |
//! | `fetching` | one page of a conversation: read, compared with what is known, handed over |
//! | `entry_record` | from an entry to the record that consumers read |
//! | `budget` | how much may be asked |
//! | `setback` | why fetching waits, and for how long |
//!
//! # Why every entry is written, and none twice
//!
//! **What is kept, and where.** A fetch has to know what it has written, and an event that told of something must not be
//! forgotten before that is fetched. Both stand in the stream's checkpoint topic, under keys of their own beside the
//! checkpoint (`kafka::KEPT`), written by the run loop in its own transactions. They are not members of the checkpoint:
//! that record travels with every transaction of events, and thousands of conversations in it would be written again
//! with each of them. The topic is compacted, read whole at each start, and read to an end that the new writer had
//! acknowledged, so what was found there is the newest that anybody committed. A conversation is forgotten (a tombstone)
//! when nothing has happened in it for `history`; so the topic has as many records as there are conversations in that
//! time.
//!
//! **Triggers.** Each record of a `MessagingSession` that the run loop writes, whether an event brought it or a job, adds
//! a record "this session is to be fetched" to the same transaction, unless there is one. It names the session: an update
//! carries only what changed, so events do not tell the conversation. The record is taken away in the transaction of
//! the last page of a fetch that *began* after the event was committed to Kafka: triggers are numbered, and one whose number
//! is newer than the fetch stays. So a process that dies anywhere between an event and its messages finds the trigger.
//! Salesforce publishes events after their commit, so a fetch that begins then sees what the event told of.
//!
//! **Entries.** Of a conversation three things are kept: `cursor`, the server time of its newest entry written; `floor`,
//! the time from which on entries are looked at; and for each entry written of that time or later its identifier with
//! the SHA-256 of its content. A fetch reads from the floor on. An entry that is not known is a `message`, one with
//! another digest a `redaction`, and any other is passed over, whatever the server repeats and in whatever order. What
//! came of a page is committed together with the conversation as it is then. So after any crash a fetch compares with
//! exactly what is in Kafka. The floor follows at `min(cursor, now − reread)`: what is older than that is not looked
//! at again, and a text that is redacted later than `reread` after it was sent is not told.
//!
//! **A conversation that is not known** is fetched from `now − history` on. One that was forgotten had no entry younger than
//! that when it was, and those that come later are younger: nothing is left out and nothing repeated.
//!
//! **Sweeps.** It is not known that each message raises an event. So conversations of open sessions are looked at without
//! being told to, and once more some minutes after a session ended. Which sessions are open is kept with the conversation,
//! and listed anew every hour.
//!
//! **Budget.** Calls for entries are few. Triggers come before last looks, last looks before sweeps; what does not fit waits,
//! in Kafka. Nothing of this ever waits in the way of events: the run loop takes a page when there is one.

mod budget;
mod conversation;
mod desk;
mod entry_record;
mod fetching;
mod inlet;
mod reach;
mod runner;
mod seam;
mod sessions;
mod setback;

pub(super) use desk::MessageDesk;
pub(super) use inlet::MessageInlet;
pub use reach::reach;
pub(super) use seam::MessageBatch;
#[cfg(test)]
pub(crate) use setback::one_of_each;
