//! The result of a Bulk query job from a place on: several of its pages under way at a time, their rows in the order of the
//! result.
//!
//! Salesforce says in the head of an answer where the page behind it begins. So that page is asked for before the rows of this
//! one have come. (`…/resultPages` tells five places at once, but how large the pages at these are is Salesforce's choice and
//! not told; here each has the `maxRecords` that fits into its room.)
//!
//! What is under way is bounded: `PagesConfig::parallel` pages, counted from the call to the last row that is taken, each
//! with an equal part of `PagesConfig::bytes`; and beside them a few hundred rows of the foremost page, ready to be written. A
//! page that fails is told when it is its turn, behind all rows of those before it.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use crate::change::CsvPlan;
use crate::config::PagesConfig;
use crate::salesforce::bulk::{BulkError, BulkJob};
use crate::salesforce::bulk_page::{BulkPage, BulkRow, PageRoom, next_page};
use crate::salesforce::rest::RestError;
use crate::salesforce::rest_client::RestClient;

/// One page may take so long, with its repetitions.
const PATIENCE: Duration = Duration::from_secs(120);

/// Rows that are handed over together, at most …
const PART_ROWS: usize = 256;

/// … and from so many bytes on fewer.
const PART_BYTES: usize = 256 * 1024;

/// Parts that wait to be taken.
const PARTS: usize = 4;

/// A place in a result, as it is found again after a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BulkPlace {
    /// Where a page begins; the first one where there is none.
    pub locator: Option<String>,
    /// Rows behind that which are dealt with. The page may have had more than it has now.
    pub dealt: u64,
}

/// Some rows of one page.
#[derive(Debug)]
pub struct BulkPart {
    /// In the order of the result.
    pub rows: Vec<BulkRow>,
    /// Whether they are the last of their page, and what follows.
    pub end: Option<PageEnd>,
}

/// The end of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageEnd {
    /// Where the next one begins; `None` at the end of the result.
    pub next: Option<String>,
}

/// The rows of a result. Dropped, it ends the calls that are under way.
#[derive(Debug)]
pub struct BulkPages {
    parts: mpsc::Receiver<Result<BulkPart, BulkError>>,
    _reading: AbortOnDropHandle<()>,
}

impl BulkPages {
    /// Begins to fetch what is behind a place.
    pub fn begin(client: RestClient, plan: Arc<CsvPlan>, job: BulkJob, place: BulkPlace, config: PagesConfig) -> Self {
        let (out, parts) = mpsc::channel(PARTS);
        let parallel = config.parallel.max(1);
        let reading = Reading {
            client,
            plan,
            job,
            room: PageRoom(config.bytes / parallel),
            parallel,
            slots: Arc::new(Semaphore::new(parallel)),
            out,
        };
        Self { parts, _reading: AbortOnDropHandle::new(tokio::spawn(reading.run(place))) }
    }

    /// The next rows. To be asked until the end of the last page, or until an error.
    ///
    /// # Errors
    /// That of the page whose turn it is. What follows it has to be begun anew, from its place.
    pub async fn next(&mut self) -> Result<BulkPart, BulkError> {
        let ended = || RestError::Unreachable("the task that fetches the pages of a result has ended".to_owned());
        self.parts.recv().await.unwrap_or_else(|| Err(ended().into()))
    }
}

/// A page that was asked for. It holds one of the slots until its rows are taken.
struct Asked {
    locator: Option<String>,
    page: AbortOnDropHandle<Result<BulkPage, BulkError>>,
    _slot: OwnedSemaphorePermit,
}

/// What the pages are fetched with.
struct Reading {
    client: RestClient,
    plan: Arc<CsvPlan>,
    job: BulkJob,
    room: PageRoom,
    parallel: usize,
    slots: Arc<Semaphore>,
    out: mpsc::Sender<Result<BulkPart, BulkError>>,
}

impl Reading {
    async fn run(self, place: BulkPlace) {
        if let Err(error) = self.chains(place).await {
            // Nobody may be left who wants to know.
            let _ = self.out.send(Err(error)).await;
        }
    }

    /// Reads to the end of the result, by one chain of pages, or by several where a page turns out to end elsewhere than the
    /// head of its answer said.
    async fn chains(&self, mut place: BulkPlace) -> Result<(), BulkError> {
        loop {
            match self.chain(place).await? {
                None => return Ok(()),
                Some(next) => {
                    debug!(bulk = self.job.id, "pages of a bulk query job asked for anew");
                    place = next;
                }
            }
        }
    }

    /// Takes the pages in their order as long as each begins where the one before it ends. Returns where to go on.
    async fn chain(&self, place: BulkPlace) -> Result<Option<BulkPlace>, BulkError> {
        let BulkPlace { locator: mut begin, mut dealt } = place;
        let (asked_in, mut asked) = mpsc::channel(self.parallel);
        let asking = self.ask(begin.clone(), asked_in);
        let taking = async {
            while let Some(Asked { locator, page, _slot }) = asked.recv().await {
                if locator != begin {
                    // It was repeated with fewer rows, so something is in between.
                    break;
                }
                let died = |_| RestError::Unreachable("the task that fetches a page has ended".to_owned());
                let page = page.await.map_err(died)??;
                begin = page.next_locator().map(str::to_owned);
                dealt = self.hand_over(page, dealt).await?;
                if begin.is_none() {
                    return Ok(None);
                }
            }
            Ok(Some(BulkPlace { locator: begin, dealt }))
        };
        // Whoever asks has to go on while rows are taken, and ends with whoever takes them.
        let mut asking = std::pin::pin!(asking);
        let mut taking = std::pin::pin!(taking);
        tokio::select! {
            outcome = &mut taking => outcome,
            () = &mut asking => taking.await,
        }
    }

    /// Asks for page after page, each as soon as its place is known and a slot is free. Ends behind the last, and behind one that
    /// fails.
    async fn ask(&self, mut locator: Option<String>, asked: mpsc::Sender<Asked>) {
        loop {
            // Nobody closes it.
            let Ok(_slot) = self.slots.clone().acquire_owned().await else { return };
            let (told, mut heads) = watch::channel(None);
            let page = AbortOnDropHandle::new(tokio::spawn(self.fetch(locator.clone(), told)));
            if asked.send(Asked { locator, page, _slot }).await.is_err() {
                return;
            }
            let Ok(head) = heads.wait_for(Option::is_some).await else { return };
            locator = head.as_ref().and_then(next_page);
            if locator.is_none() {
                return;
            }
        }
    }

    fn fetch(
        &self,
        locator: Option<String>,
        told: watch::Sender<Option<HeaderMap>>,
    ) -> impl Future<Output = Result<BulkPage, BulkError>> + use<> {
        let (client, plan, job, room) = (self.client.clone(), self.plan.clone(), self.job.clone(), self.room);
        async move { client.bulk_page((&plan, &job), locator.as_deref(), room, &told, Instant::now() + PATIENCE).await }
    }

    /// Hands the rows of a page over, but for the first `dealt`. Returns how many of these are in pages behind it.
    async fn hand_over(&self, mut page: BulkPage, dealt: u64) -> Result<u64, BulkError> {
        let all = page.left() as u64;
        if dealt > 0 && dealt >= all {
            // The page of which a part was written may have been longer than those that are asked for now.
            return match page.next_locator() {
                Some(_) => Ok(dealt - all),
                None => Err(BulkError::NotWhole("it has become shorter".to_owned())),
            };
        }
        page.skip(usize::try_from(dealt).unwrap_or(usize::MAX))?;
        loop {
            let (mut rows, mut bytes) = (Vec::with_capacity(page.left().min(PART_ROWS)), 0);
            while rows.len() < PART_ROWS
                && bytes < PART_BYTES
                && let Some(row) = page.next_row()?
            {
                bytes += row.as_ref().map_or(0, |row| row.record.as_str().len());
                rows.push(row);
            }
            let end = (page.left() == 0).then(|| PageEnd { next: page.next_locator().map(str::to_owned) });
            let ended = end.is_some();
            if self.out.send(Ok(BulkPart { rows, end })).await.is_err() || ended {
                return Ok(0);
            }
            tokio::task::yield_now().await;
        }
    }
}
