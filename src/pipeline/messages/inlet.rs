//! The run loop's end of the messages of one attempt, and how an attempt begins them.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::MessagesConfig;
use crate::identity::OrgId;
use crate::kafka::{KafkaSettings, OutputRecord, TransactionalWriter};
use crate::pipeline::context::StreamContext;
use crate::pipeline::memory::StreamMemory;
use crate::pipeline::messages::desk::{MessageDesk, Triggered};
use crate::pipeline::messages::runner::MessageRunner;
use crate::pipeline::messages::seam::MessageBatch;
use crate::pipeline::messages::unread::LedgerWriter;
use crate::salesforce::conversation_entries::EntriesClient;
use crate::salesforce::rest_client::RestClient;
use crate::salesforce::session::{Session, SessionError, SessionSettings};

/// Where entries of conversations are asked for. The app of the Conversation Data API, `data_api`, signs in where the
/// organisation is, which Salesforce demands of client credentials and the first session knows.
///
/// # Errors
/// When its settings cannot be used.
pub(in crate::pipeline) fn entries_client(
    rest: &RestClient,
    data_api: Option<&SessionSettings>,
    instance_url: &str,
    org: &OrgId,
) -> Result<EntriesClient, SessionError> {
    let Some(settings) = data_api else { return Ok(EntriesClient::Connect(rest.clone())) };
    let login_url = instance_url.parse().unwrap_or_else(|_| settings.login_url.clone());
    let session = Session::new(SessionSettings { login_url, org_id: Some(org.clone()), ..settings.clone() })?;
    Ok(EntriesClient::Data(RestClient::new(session)))
}

/// Empty where a stream fetches no messages.
#[derive(Default)]
pub(in crate::pipeline) struct MessageInlet(Option<Open>);

struct Open {
    desk: Arc<MessageDesk>,
    batches: mpsc::Receiver<MessageBatch>,
}

impl MessageInlet {
    /// Begins to fetch messages, if the stream is to, from what it keeps; and the task that does.
    pub fn begin(
        context: &Arc<StreamContext>,
        memory: &Arc<StreamMemory>,
        (kafka, rest, entries): (&KafkaSettings, &RestClient, EntriesClient),
        config: MessagesConfig,
        writer: &mut TransactionalWriter,
        cancel: &CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        if !context.stream.messages {
            return (Self::default(), tokio::spawn(async {}));
        }
        let kept = writer.take_kept();
        let (board, ledger) = (context.board.clone(), LedgerWriter::of(context));
        let desk = Arc::new(MessageDesk::new(&context.identity, board, ledger, config.history, &kept));
        let (out, batches) = mpsc::channel(1);
        let parts = (context.clone(), memory.clone(), kafka.clone(), (rest.clone(), entries), desk.clone());
        let runner = MessageRunner::new(parts, config, &kept, out, cancel.clone());
        (Self(Some(Open { desk, batches })), tokio::spawn(runner.run()))
    }

    /// The next batch; waits for ever where there will be none. May be dropped while it waits: nothing is lost.
    pub async fn next(&mut self) -> Option<(Arc<MessageDesk>, MessageBatch)> {
        match &mut self.0 {
            Some(open) => Some((open.desk.clone(), open.batches.recv().await?)),
            None => std::future::pending().await,
        }
    }

    /// The next batch if it is there.
    pub fn try_next(&mut self) -> Option<(Arc<MessageDesk>, MessageBatch)> {
        let open = self.0.as_mut()?;
        Some((open.desk.clone(), open.batches.try_recv().ok()?))
    }

    /// Adds to a transaction which sessions are to be fetched for its records.
    pub fn trigger(&self, records: &mut Vec<OutputRecord>) -> Triggered {
        self.0.as_ref().map(|open| open.desk.enrol(records)).unwrap_or_default()
    }

    /// That transaction is committed.
    pub fn triggered(&self, triggered: Triggered) {
        if let Some(open) = &self.0 {
            open.desk.committed(triggered);
        }
    }
}
