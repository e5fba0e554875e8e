//! From the queue to the collector. A collector that is away, slow, or refuses costs what stands in the queue and one batch,
//! and nothing else: what finds no room is counted, and what is not taken within a minute is given up for what is newer.

use std::time::Duration;

use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::config::TelemetryConfig;
use crate::failure::Failure;
use crate::salesforce::backoff::{Backoff, BackoffLimits};
use crate::status::{Board, SpanTally};
use crate::telemetry::collector::{Collector, CollectorError};
use crate::telemetry::event_trace::Finished;
use crate::telemetry::spans;
use crate::telemetry::spell::{CALM, Spell, Turn};
use crate::telemetry::tracer::Tracer;

/// Events in one call, at most; each is three or four spans.
const BATCH: usize = 128;

/// How long a call waits for more events.
const LINGER: Duration = Duration::from_secs(1);

/// How long the same spans are tried.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two attempts.
const AGAIN: BackoffLimits = BackoffLimits::constant(Duration::from_secs(1), Duration::from_secs(15));

/// How long an orderly end waits for the last spans.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// An exporter that runs. It ends when this is dropped.
#[derive(Debug)]
pub struct Exporting {
    task: AbortOnDropHandle<()>,
    stop: CancellationToken,
    tally: SpanTally,
}

impl Exporting {
    /// Exports what there is still, for two seconds or `within`, whichever is shorter.
    pub async fn end(self, within: Duration) {
        self.stop.cancel();
        let _ = tokio::time::timeout(within.min(LAST_SPANS), self.task).await;
        let spans = self.tally.waiting();
        if spans > 0 {
            warn!(spans, "spans were not exported before the end");
        }
    }
}

/// The one task that speaks to the collector.
#[derive(Debug)]
pub struct Exporter {
    collector: Collector,
    resource: Resource,
    queue: mpsc::Receiver<Finished>,
    /// Taken from the queue and not sent yet.
    batch: Vec<Finished>,
    tally: SpanTally,
    board: Board,
    spell: Spell,
}

impl Exporter {
    /// An exporter that does not run yet, and the tracer whose traces it exports.
    ///
    /// # Errors
    /// When the way to the collector cannot be prepared.
    pub fn new(config: &TelemetryConfig, board: &Board) -> Result<(Self, Tracer), Failure> {
        let collector = Collector::new(config)?;
        let tally = board.trace_to(collector.url());
        let (tracer, queue) = Tracer::new(config, tally.clone());
        let resource = spans::resource(&config.service_name, board.run_id());
        let (board, batch, spell) = (board.clone(), Vec::new(), Spell::default());
        Ok((Self { collector, resource, queue, batch, tally, board, spell }, tracer))
    }

    /// Begins to export.
    pub fn begin(self) -> Exporting {
        let (stop, tally) = (CancellationToken::new(), self.tally.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(self.run(stop.clone())));
        Exporting { task, stop, tally }
    }

    /// Exports until `stop`, and what is in the queue then. May be dropped at any time.
    async fn run(mut self, stop: CancellationToken) {
        info!(endpoint = self.collector.url(), "exporting traces");
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                more = self.gather() => {
                    if !more {
                        return;
                    }
                    self.deliver(&stop).await;
                }
                // A spell is over without another span, too.
                () = tokio::time::sleep(CALM), if self.spell.is_under_way() => self.look(None),
            }
        }
        loop {
            while self.batch.len() < BATCH {
                let Ok(finished) = self.queue.try_recv() else { break };
                self.batch.push(finished);
            }
            if self.batch.is_empty() {
                return;
            }
            self.deliver(&stop).await;
        }
    }

    /// Waits for events, and a moment for more of them; false when no more can come. What was taken stays in the batch
    /// should nobody wait for it any longer.
    async fn gather(&mut self) -> bool {
        if self.batch.is_empty() && self.queue.recv_many(&mut self.batch, BATCH).await == 0 {
            return false;
        }
        let until = Instant::now() + LINGER;
        while self.batch.len() < BATCH {
            let room = BATCH - self.batch.len();
            match timeout_at(until, self.queue.recv_many(&mut self.batch, room)).await {
                Ok(more) if more > 0 => {}
                _ => break,
            }
        }
        true
    }

    /// Sends the batch, again and again for a while; once, when `stop` is.
    async fn deliver(&mut self, stop: &CancellationToken) {
        let batch = std::mem::take(&mut self.batch);
        let spans = batch.iter().map(Finished::spans).sum();
        let request = spans::request(self.resource.clone(), &batch);
        drop(batch);
        let give_up = Instant::now() + PATIENCE;
        let mut backoff = Backoff::new(AGAIN);
        loop {
            let error = match self.collector.export(request.clone()).await {
                Ok(()) => {
                    self.tally.exported(spans);
                    return self.look(None);
                }
                Err(error) => error,
            };
            let wait = backoff.next_wait();
            let over = stop.is_cancelled() || !error.is_retryable() || Instant::now() + wait > give_up;
            if over {
                let rejected = if let CollectorError::Rejected { spans, .. } = error { spans } else { u64::MAX };
                let rejected = rejected.min(spans);
                self.tally.exported(spans - rejected);
                self.tally.dropped(rejected);
            }
            self.look(Some(&error));
            if over {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Tells what has changed since the last look.
    fn look(&mut self, error: Option<&CollectorError>) {
        let lost = self.tally.lost();
        let slow = || CollectorError::Slow { endpoint: self.collector.url().to_owned() }.failure();
        let failure = error.map(CollectorError::failure).or_else(|| self.spell.loses(lost).then(slow));
        let turn = self.spell.look(Instant::now(), failure.is_some(), lost);
        let endpoint = self.collector.url();
        if let (Turn::Begins, Some(failure)) = (turn, &failure) {
            warn!(endpoint, error = failure.what, remedy = failure.remedy, "spans are not exported");
        }
        if let Turn::Ends { lost } = turn {
            info!(endpoint, spans = lost, "spans are exported again; so many were lost");
        }
        self.board.show_traces(failure.as_ref(), self.spell.is_under_way());
    }
}
