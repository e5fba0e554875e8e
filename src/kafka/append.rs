//! Records appended without a transaction, by a producer that is made for them and ends with them.
//!
//! For what a command tells a running stream: an entry of the gap ledger. Data and positions are written by the stream's
//! transactions only. The producer is idempotent and waits for all in-sync replicas, so a record that is
//! acknowledged stands there once. It has no transactional id: it fences nobody, and leaves no transaction open that
//! would hold readers back.

use std::time::Instant;

use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::producer::ThreadedProducer;

use crate::kafka::connection::{ConnectionContext, Delivered};
use crate::kafka::error::{Class, Flags, KafkaError, class_of, explain};
use crate::kafka::scan::blocking;
use crate::kafka::settings::{KafkaSettings, create};
use crate::kafka::transaction::{client_record, too_large};
use crate::kafka::writer::OutputRecord;

const CALL: &str = "appending records";

/// Writes records to topics that exist, each once, and returns when all are acknowledged.
///
/// # Errors
/// When one is refused, or not acknowledged within [`KafkaSettings::call_timeout`]. Some of them may be written all the same.
pub async fn append(settings: &KafkaSettings, records: Vec<OutputRecord>) -> Result<(), KafkaError> {
    let settings = settings.clone();
    blocking(move || append_blocking(&settings, &records)).await
}

fn append_blocking(settings: &KafkaSettings, records: &[OutputRecord]) -> Result<(), KafkaError> {
    let context = ConnectionContext::default();
    let producer: ThreadedProducer<ConnectionContext> = create(&settings.appender(), context.clone())?;
    let deadline = Instant::now() + settings.call_timeout;
    context.deliveries.begin();
    for (index, record) in records.iter().enumerate() {
        context.deliveries.sending();
        if let Err((error, _)) = producer.send(client_record(index, record)) {
            context.deliveries.not_sent();
            return Err(match error {
                ClientError::MessageProduction(code) => refused(settings, records, &[(index, code)], &context),
                error => explain(CALL, &error, &context.connection),
            });
        }
    }
    match context.deliveries.wait(deadline) {
        Delivered::All => Ok(()),
        Delivered::Late(_) => {
            let late = ClientError::Flush(RDKafkaErrorCode::OperationTimedOut);
            Err(explain(CALL, &late, &context.connection))
        }
        Delivered::Failed(failed) => Err(refused(settings, records, &failed, &context)),
    }
}

/// Why records were refused: one that is too large is named.
fn refused(
    settings: &KafkaSettings,
    records: &[OutputRecord],
    failed: &[(usize, RDKafkaErrorCode)],
    context: &ConnectionContext,
) -> KafkaError {
    let large = failed.iter().find(|(_, code)| class_of(*code, Flags::default()) == Class::TooLarge);
    if let Some((index, record)) = large.and_then(|(index, _)| Some((*index, records.get(*index)?))) {
        return too_large(index, record, settings.record_limit());
    }
    let code = failed.first().map_or(RDKafkaErrorCode::Unknown, |(_, code)| *code);
    // A record whose time ran out has been waiting for a broker all along.
    let error = match code {
        RDKafkaErrorCode::MessageTimedOut => ClientError::Flush(RDKafkaErrorCode::OperationTimedOut),
        code => ClientError::MessageProduction(code),
    };
    explain(CALL, &error, &context.connection)
}
