//! Why a job waits, and for how long. A job is never dropped: its gap stays open, and the reason is on the board.

use std::time::Duration;

use crate::failure::{Exit, Failure};
use crate::kafka::KafkaError;
use crate::salesforce::backoff::{Backoff, BackoffLimits};
use crate::salesforce::bulk::BulkError;
use crate::salesforce::rest::{RestError, RestVerdict};

/// Between attempts of what mends itself.
pub(super) const LIMITS: BackoffLimits = BackoffLimits::constant(Duration::from_secs(1), Duration::from_secs(300));

/// Between looks at a Bulk query job: small ones take a second, large ones minutes.
pub(super) const POLLS: BackoffLimits = BackoffLimits::constant(Duration::from_millis(200), Duration::from_secs(30));

/// Between attempts of what somebody has to mend, mostly by clicks in Setup that nobody reports back.
const MENDED: Duration = Duration::from_secs(300);

const HOUR: Duration = Duration::from_secs(3600);

/// Between looks at the API requests of the org.
const ALLOWANCE: Duration = Duration::from_secs(60);

/// Why a job cannot go on.
#[derive(Debug)]
pub(super) enum Setback {
    /// Salesforce cannot be asked, or says no.
    Rest(RestError),
    /// The same of the Bulk API.
    Bulk(BulkError),
    /// Salesforce is still at a Bulk query job. Nothing is wrong as long as that ends.
    Working {
        /// The id of one that reads the object; none where it lists the object's ids.
        bulk: Option<String>,
    },
    /// What Kafka holds cannot be read.
    Kafka(KafkaError),
    /// Something that an operator mends.
    Stopped(Failure),
    /// Other clients need the rest of the org's API requests.
    Share {
        /// In percent.
        used: u64,
    },
    /// So many records are missing that the user may have lost the right to see them.
    Absent {
        /// The object.
        entity: String,
        /// Missing ones.
        absent: u64,
        /// All that Kafka holds.
        held: u64,
    },
    /// Records that cannot be read, to be tried again.
    Unread {
        /// How many.
        records: usize,
        /// For how long that has been tried.
        tried: Duration,
    },
    /// A channel of which nothing was ever written.
    NothingKnown,
    /// The event of a dead letter cannot be written, to be tried again.
    Letter {
        /// Why.
        reason: String,
        /// For how long that has been tried.
        tried: Duration,
    },
    /// The attempt of the stream is over.
    Gone,
}

impl From<RestError> for Setback {
    fn from(error: RestError) -> Self {
        Self::Rest(error)
    }
}

impl From<BulkError> for Setback {
    fn from(error: BulkError) -> Self {
        match error {
            BulkError::Rest(error) => Self::Rest(error),
            error => Self::Bulk(error),
        }
    }
}

impl From<KafkaError> for Setback {
    fn from(error: KafkaError) -> Self {
        Self::Kafka(error)
    }
}

impl Setback {
    /// How long to wait.
    pub fn wait(&self, backoff: &mut Backoff) -> Duration {
        match self {
            Self::Rest(error) => match error.verdict() {
                RestVerdict::Pause(length) => length.max(LIMITS.minimum()),
                RestVerdict::RetryAfter(hint) => backoff.next_wait_at_least(hint),
                // The next attempt begins its query anew, describes anew, asks with a new token or for less.
                RestVerdict::QueryAnew
                | RestVerdict::DescribeAnew
                | RestVerdict::NewToken
                | RestVerdict::AskForLess => backoff.next_wait(),
                RestVerdict::Stop => MENDED,
            },
            Self::Bulk(_) | Self::Working { .. } | Self::Kafka(_) | Self::Gone => backoff.next_wait(),
            // The next success of the job would forget a backoff.
            Self::Unread { tried, .. } | Self::Letter { tried, .. } => (*tried / 4).clamp(LIMITS.minimum(), HOUR),
            Self::Stopped(_) | Self::Absent { .. } | Self::NothingKnown => MENDED,
            Self::Share { .. } => ALLOWANCE,
        }
    }

    /// What an operator has to know and do.
    pub fn failure(&self) -> Failure {
        let said = |exit, what: String, remedy: &str| Failure::new(exit, what, remedy);
        match self {
            Self::Rest(error) => error.failure(),
            Self::Bulk(error) => error.failure(),
            Self::Working { bulk: Some(bulk) } => said(
                Exit::Temporary,
                format!("Salesforce is working on the Bulk query job {bulk}"),
                "nothing to do: Setup > Bulk Data Load Jobs shows the job; one that is not done after six hours is given up \
                 and made anew, and after four of them the object is read over REST",
            ),
            Self::Working { bulk: None } => said(
                Exit::Temporary,
                "Salesforce is listing all ids of the object in a Bulk query job".to_owned(),
                "nothing to do: what is not listed after an hour is listed over REST",
            ),
            Self::Kafka(error) => error.failure(),
            Self::Stopped(failure) => failure.clone(),
            Self::Share { used } => said(
                Exit::Unavailable,
                format!("{used} % of the org's API requests of 24 hours are used"),
                "nothing to do: healing goes on when some are free again; `gaps.api_share` says from when on it waits",
            ),
            Self::Absent { entity, absent, held } => said(
                Exit::NoPermission,
                format!(
                    "{absent} of the {held} {entity} records that Kafka holds are not in the org, or not for this user to see"
                ),
                "if they were deleted on purpose, raise `gaps.most_absent`; otherwise grant \"View All Records\" on the object: Setup > \
                 Permission Sets > the integration user's set > Object Settings",
            ),
            Self::Unread { records, .. } => said(
                Exit::NoPermission,
                format!(
                    "{records} records cannot be read: they are hidden from the user, purged, or larger than Kafka takes"
                ),
                "grant \"View All Records\" on the object, or raise `message.max.bytes`; the gap is given up after \
                 `gaps.give_up_after`",
            ),
            Self::NothingKnown => said(
                Exit::Unavailable,
                "It is not known which objects the channel carries: nothing of it was ever written".to_owned(),
                "nothing to do: the gap is healed once an event has come",
            ),
            Self::Letter { reason, .. } => said(
                Exit::Software,
                format!("A dead letter cannot be written: {reason}"),
                "`casewire dead-letters show` tells more; the letter is given up after `gaps.give_up_after`, and can be \
                 redriven again",
            ),
            Self::Gone => said(Exit::Temporary, "The stream begins again".to_owned(), ""),
        }
    }
}

/// A failure of each kind that has words of its own, for the page of errors.
#[cfg(test)]
pub(crate) fn one_of_each() -> Vec<Failure> {
    let samples = [
        Setback::Working { bulk: Some("JOB".to_owned()) },
        Setback::Working { bulk: None },
        Setback::Share { used: 80 },
        Setback::Absent { entity: "Case".to_owned(), absent: 900, held: 1_000 },
        Setback::Unread { records: 3, tried: HOUR },
        Setback::NothingKnown,
        Setback::Letter { reason: "REASON".to_owned(), tried: HOUR },
    ];
    for sample in &samples {
        match sample {
            Setback::Rest(_) | Setback::Bulk(_) | Setback::Kafka(_) | Setback::Stopped(_) | Setback::Gone => {}
            Setback::Working { .. } | Setback::Share { .. } | Setback::Absent { .. } => {}
            Setback::Unread { .. } | Setback::NothingKnown | Setback::Letter { .. } => {}
        }
    }
    samples.iter().map(Setback::failure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{TimeDelta, Utc};

    #[test]
    fn every_setback_waits_and_says_why() {
        let minute = |setback: Setback| setback.wait(&mut Backoff::new(LIMITS)).as_secs() / 60;
        let refused = |code: &str| {
            let (code, message) = (code.to_owned(), String::new());
            Setback::Rest(RestError::Refused { status: 400, code, message, retry_after: None })
        };
        assert_eq!(minute(refused("INVALID_TYPE")), 5, "until somebody grants it");
        assert_eq!(minute(refused("UNABLE_TO_LOCK_ROW")), 0);
        assert_eq!(minute(Setback::Rest(RestError::Paused(Utc::now() + TimeDelta::minutes(8)))), 7);
        assert_eq!(minute(Setback::Share { used: 90 }), 1);
        let absent = Setback::Absent { entity: "Case".into(), absent: 900, held: 1_000 };
        assert!(absent.failure().what.contains("900 of the 1000 Case"), "{}", absent.failure().what);
        assert_eq!(minute(absent), 5);
        let unread = |minutes: u64| Setback::Unread { records: 3, tried: Duration::from_secs(minutes * 60) };
        assert_eq!((minute(unread(0)), minute(unread(40)), minute(unread(900))), (0, 10, 60));
        assert!(unread(0).failure().remedy.contains("give_up_after"));
    }
}
