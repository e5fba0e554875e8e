//! What is told of a stream that goes on: its last error in /status, with what there is to do. Here for the page of errors, as
//! the failures are that end something.

/// Something that an operator should know, and that stops nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// A topic of an object was missing behind events that should have made it.
    #[error("Topic `{name}` did not exist and was made, although the stream has carried {carried} events")]
    TopicMade {
        /// The topic.
        name: String,
        /// How many events.
        carried: u64,
    },
    /// The position is refused, and the stream has `on_gap = "earliest"`. In the words of the gap.
    #[error("{0}")]
    PositionRefused(String),
    /// Another instance has fenced this one.
    #[error("{by} has taken this stream over")]
    TakenOver {
        /// Its host and run.
        by: String,
    },
    /// Completion waits, in the words of what it waits for.
    #[error("{0}")]
    RecordsAwaited(String),
    /// Conversations are forgotten of which the records could not be read for all the time that they were kept.
    #[error(
        "The messages of {conversations} conversations are written, and their Conversation and participants were never read"
    )]
    RecordsNeverRead {
        /// How many.
        conversations: usize,
    },
}

/// What mends an object whose records change while no events of it come.
pub(super) const SILENT: &str = "Setup > Change Data Capture: the object has to be selected; Setup > Permission Sets > the integration user's set > Object \
                      Settings: \"View All Records\" on the object, read access to it and to its fields";

impl Notice {
    /// What there is to do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::TopicMade { .. } => {
                "nothing to do if these are the first events of the entity; otherwise the topic was deleted, and the records in it \
                 with it"
            }
            Self::PositionRefused(_) => "the gap is in the ledger; the stream goes on from the oldest retained event",
            Self::TakenOver { .. } => {
                "two instances have the same topic prefix, organisation and topic: this one stands by and takes over when the \
                 other falls silent; if that is not meant, give them different topic prefixes. After `casewire checkpoint`, \
                 restart this one to go on at once"
            }
            Self::RecordsAwaited(_) => "the stream waits, because on_incomplete is \"wait\"",
            Self::RecordsNeverRead { .. } => {
                "Setup > Permission Sets > the integration user's set > Object Settings: grant read access to Conversations and \
                 Conversation Participants and to their fields; those come again with the next messages of the conversations"
            }
        }
    }
}

/// Each of them once, for the page of errors: what it says, and what there is to do.
#[cfg(test)]
pub(crate) fn one_of_each() -> Vec<(String, String)> {
    let samples = [
        Notice::TopicMade { name: "TOPIC".to_owned(), carried: 1_200 },
        Notice::PositionRefused("Salesforce refused the stored position: MESSAGE".to_owned()),
        Notice::TakenOver { by: "HOST (run RUN)".to_owned() },
        Notice::RecordsAwaited("The REST API cannot be reached: REASON".to_owned()),
        Notice::RecordsNeverRead { conversations: 12 },
    ];
    for sample in &samples {
        match sample {
            Notice::TopicMade { .. } | Notice::PositionRefused(_) => {}
            Notice::TakenOver { .. } | Notice::RecordsAwaited(_) | Notice::RecordsNeverRead { .. } => {}
        }
    }
    let mut told: Vec<_> = samples.iter().map(|notice| (notice.to_string(), notice.remedy().to_owned())).collect();
    told.push(("Records of OBJECT change, and no events of them come".to_owned(), SILENT.to_owned()));
    told
}
