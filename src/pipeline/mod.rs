//! The only room that carries from one side to the other: the stations of a stream and what keeps them running.
//!
//! | file | duty |
//! |---|---|
//! | [`process`] | all streams of one process, from start to orderly end |
//! | [`stream`] | one stream: attempt after attempt, standby, stops |
//! | `attempt` | one attempt: fence, read the position, announce, subscribe, run |
//! | `beginning` | the position from which an attempt goes on, and when it must not |
//! | `beside` | the tasks beside the events of an attempt, and what follows when one of them ends |
//! | `sign_in` | signing in, disturbances waited for |
//! | `decode` | the decode station |
//! | `prepared` | what travels from the decode station to the run loop |
//! | `hand_over` | the way there, in order, although some come later than those behind them |
//! | `want` | what is to be read of a record, and the place that is left for it |
//! | `completion` | the completion station: what is read, when and how many at a time |
//! | `complete` | one read for a group of batches, and what is made of it |
//! | `traces` | the sampled events of a transaction |
//! | `text_base` | the old value of a text, where a batch holds it |
//! | `api_budget` | how much completion may do, by the org's API requests |
//! | `jobs` | jobs that read records anew to heal gaps |
//! | `messages` | what was said in messaging sessions |
//! | `memory` | what a stream keeps from one attempt to the next |
//! | `refusal` | what follows when Salesforce refuses the stored position |
//! | `mirror` | what the two sides say of themselves, carried to the board |
//! | `run_loop` | the run loop: the one writer of a stream's topics |
//! | [`records`] | from a decoded change to the records that consumers read |
//! | [`ledger`] | the gap ledger |
//! | [`ledger_entries`] | entries that a command or a comparison puts there |
//! | [`reconcile`] | what Kafka holds compared with what the org has |
//! | `dead_letter` | undecodable events and the brake on floods of them |
//! | [`schemas`] | writer schemas, fetched once |
//! | [`policy_check`] | whether the fields that the policies name exist |
//! | `claims` | which stream writes which entity |
//! | `notice` | what is told of a stream that goes on |
//! | `stop` | why a stream stops on its own account, and what mends it |
//! | `kept` | what a stream keeps beside its checkpoint, read back |
//! | `output_topics` | the topics a stream writes to, made when first needed |
//! | `read_back` | what the output already holds |
//! | `conclusion` | what the end of an attempt means |
//! | `context` | what all parts of a stream know |
//! | [`settings`] | what each room needs, out of the one configuration |

mod api_budget;
mod attempt;
mod beginning;
mod beside;
mod claims;
mod complete;
mod completion;
mod conclusion;
pub mod context;
pub mod dead_letter;
mod decode;
mod hand_over;
mod jobs;
mod kept;
pub mod ledger;
pub mod ledger_entries;
mod memory;
pub mod messages;
mod mirror;
mod notice;
mod output_topics;
pub mod policy_check;
mod prepared;
pub mod process;
pub mod read_back;
pub mod reconcile;
pub mod records;
mod refusal;
mod run_loop;
pub mod schemas;
pub mod settings;
mod sign_in;
pub(crate) mod stop;
pub mod stream;
mod text_base;
mod traces;
mod want;

pub use beginning::{NoBeginning, first_run};

/// How what a stream keeps in Kafka is read back, apart from the Kafka that it comes from; like `salesforce::reading` it is for
/// the fuzz targets of `fuzz/`, and nothing else should use it.
#[doc(hidden)]
pub mod reading {
    pub use super::jobs::stored::{Job, Jobs, LedgerEntry, Outcome, PollPosition, jobs_of, ledger_entry, set_job};
    pub use super::kept::{Unreadable, read as kept_value};
    pub use super::messages::stored::{
        Clear, Conversation, End, LedgerWriter, MessageBatch, MessageDesk, Op, Reason, Walk, conversation_key,
        conversations,
    };
}

#[cfg(test)]
pub(crate) use jobs::one_of_each as job_setbacks;
#[cfg(test)]
pub(crate) use messages::one_of_each as message_setbacks;
#[cfg(test)]
pub(crate) use notice::one_of_each as notices;
