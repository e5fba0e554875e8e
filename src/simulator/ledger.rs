//! The ledger: one JSON line for every event published, in the simulator's own
//! rendering. It is what a judge compares a consumer's output with.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value as Json};

/// One published event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LedgerLine {
    /// Counts the lines from 1.
    pub n: u64,
    /// Every topic and channel on which the event can be received.
    pub topics: Vec<String>,
    /// Lower-case hexadecimal, ten bytes.
    pub replay_id: String,
    /// The event's UUID.
    pub event_id: String,
    /// The id of the writer schema.
    pub schema_id: String,
    /// `Case`, `Installation__c`, `Case_Escalation__e`.
    pub entity: String,
    /// `None` for a platform event.
    pub change_type: Option<String>,
    /// As in the header; empty for a platform event.
    pub record_ids: Vec<String>,
    /// Milliseconds of the epoch; for a platform event, when it was created.
    pub commit_timestamp: i64,
    /// A decimal number, which may be beyond what a double holds. `None` for a platform event.
    pub commit_number: Option<String>,
    /// `None` for a platform event.
    pub transaction_key: Option<String>,
    /// `None` for a platform event.
    pub sequence_number: Option<i32>,
    /// Who made the change.
    pub user: String,
    /// `changeOrigin`; empty for system changes.
    pub origin: String,
    /// Exactly the values that changed; null = cleared. Every non-null field for creates, undeletes and platform events.
    pub changed: Map<String, Json>,
    /// Fields that changed but whose value the event does not tell.
    pub unresolved: Vec<String>,
    /// Fields that the channel added.
    pub enriched: Map<String, Json>,
    /// The payload was made undecodable on purpose.
    pub poison: bool,
}

/// The file the lines go to. Each line is handed to the operating system as it is written.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: Option<BufWriter<File>>,
}

impl Ledger {
    /// Begins the file anew, as the org's history does with every start; without a path nothing is kept.
    pub(crate) fn open(path: Option<&Path>) -> std::io::Result<Self> {
        let file = path.map(|path| {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)?;
            }
            File::create(path)
        });
        Ok(Self { file: file.transpose()?.map(BufWriter::new) })
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.file.is_some()
    }

    pub(crate) fn write(&mut self, line: &LedgerLine) -> std::io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        serde_json::to_writer(&mut *file, line)?;
        file.write_all(b"\n")
    }

    /// Hands what was written to the operating system; done before the events can be received.
    pub(crate) fn flush(&mut self) -> std::io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}
