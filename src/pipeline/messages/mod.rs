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
//! | `history` | the sessions that snapshots found |
//! | `catching_up` | what was said in them, fetched when nothing more urgent is to be |
//! | `walk` | from page to page of a conversation |
//! | `fetching` | one page of a conversation: read, compared with what is known, handed over |
//! | `participants` | the records of conversations and of who takes part in them |
//! | `unread` | what is looked for in vain, and its entry in the gap ledger |
//! | `entry_record` | from an entry to the record that consumers read |
//! | `comparison` | a comparison of conversations with what Kafka holds of them, as it is kept in Kafka |
//! | `comparing` | the same on its way: opened, prepared, ended |
//! | `asking` | the pages of what is compared, and those that are not answered |
//! | `looks` | two looks at one conversation of it, and what is written for them |
//! | `owed` | what a comparison orders of a conversation |
//! | `held` | what Kafka holds of entries, read back from their topic |
//! | `difference` | one conversation as Kafka holds it against what the source shows |
//! | `budget` | how much may be asked |
//! | `setback` | why fetching waits, and for how long |
//! | `doubt` | whether a failed call is the fault of one conversation or of all |
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
//! at again, and a text that is redacted later than `reread` after it was sent is told by a comparison only (`looks`).
//!
//! The floor may only follow what is surely read. Pages that are asked for by time come in that order; those that follow a
//! token are held until the last of them, in windows of time that bound what is held (`walk`).
//!
//! **A conversation that is not known** is fetched from `now − history` on. One that was forgotten had no entry younger than
//! that when it was, and those that come later are younger: nothing is left out and nothing repeated. That holds for as long as
//! `history` is not raised: then its entries between the two are repeated, and operators are told so where the key is described.
//!
//! **What a comparison orders** is owed until a fetch has read it that began after it (`owed_from`): the floor stays before it, and a first
//! fetch begins there if that is earlier. A conversation that is not known learns what Kafka holds of it before that (`looks`).
//!
//! **Sweeps.** It is not known that each message raises an event. So conversations of open sessions are looked at without
//! being told to, and once more some minutes after a session ended. Which sessions are open is kept with the conversation,
//! and listed anew every hour.
//!
//! **What snapshots found.** A row of a session that a snapshot read did not just happen, and there can be a million of them.
//! Those in which something can have been said since `history` are listed, some hundred in a record, in the transaction of
//! the rows (`history`); how far a list is done with is committed with the entries. What is not there by then becomes a trigger.
//!
//! **What fails** can be the fault of one conversation or of all of them, and many answers do not say which. None is blamed that
//! does not fail while others are read, and none holds the others up (`doubt`).
//!
//! **What cannot be read** is tried on after growing pauses (`unread`). After `give_up_after` it has one open entry in the
//! gap ledger, whose value stands with the trigger or the conversation: so it is opened once, over restarts and whatever
//! events come, and is closed in the transaction of the entries that were read after all, or when it is given up.
//!
//! **What Kafka refuses** for its size is named by the run loop in the stream's memory, and written with less at the next
//! attempt: an entry without its content, a conversation with fewer digests, so that what came late or was redacted is looked
//! for less far back. Where even the entries of its last millisecond are too many, some can be missing, and the ledger says
//! so. No conversation stops a stream.
//!
//! **Budget.** Calls for entries are few. Triggers come before last looks, last looks before sweeps, sweeps before what
//! snapshots found, and that before a comparison; both also leave some calls to what comes meanwhile. What does not fit waits, in Kafka. Nothing of this ever waits in the way of events: the run loop takes a page when there is one.

mod asking;
mod budget;
mod catching_up;
mod comparing;
mod comparison;
mod conversation;
mod desk;
mod difference;
mod doubt;
mod entry_record;
mod fetching;
mod held;
mod history;
mod inlet;
mod looks;
mod owed;
mod participants;
mod reach;
mod runner;
mod seam;
mod sessions;
mod setback;
mod unread;
mod walk;

pub use comparison::{EntryFinding, findings_of};
pub(super) use desk::MessageDesk;
pub use difference::EntryDifference;
pub(super) use inlet::{MessageInlet, entries_client};
pub use reach::reach;
pub(super) use seam::MessageBatch;
#[cfg(test)]
pub(crate) use setback::one_of_each;

/// The part of `pipeline::reading` that is of messages.
#[doc(hidden)]
pub mod stored {
    pub use super::conversation::{Conversation, Op, Reason, kept as conversations, key as conversation_key};
    pub use super::desk::MessageDesk;
    pub use super::seam::{Clear, MessageBatch};
    pub use super::unread::{End, LedgerWriter};
    pub use super::walk::Walk;
}
