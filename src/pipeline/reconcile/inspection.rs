//! One object: both sides read, and what was found read once more.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tracing::info;

use crate::config::PollConfig;
use crate::identity::{OrgId, TopicKind};
use crate::kafka::{KafkaSettings, ScanFrom, StreamIdentity};
use crate::pipeline::jobs::touched::{Copy, Known, RecordKey, copy};
use crate::pipeline::read_back;
use crate::pipeline::reconcile::comparison::{Difference, Finding, difference, time};
use crate::pipeline::reconcile::standing::Standing;
use crate::pipeline::reconcile::unable::Unable;
use crate::salesforce::bulk::BulkError;
use crate::salesforce::bulk_listing::BulkListing;
use crate::salesforce::id_listing::{ChangedWithin, IdPage, ListedRecord};
use crate::salesforce::record_read::RecordReader;

/// One answer of Salesforce may take so long, with its repetitions.
const PATIENCE: Duration = Duration::from_secs(120);

/// How much earlier than now a record that was written since may be dated: clocks of brokers differ.
const CLOCKS: TimeDelta = TimeDelta::minutes(5);

/// Fewer missing records than this are never taken for lost access.
const FEW: u64 = 100;

/// Which records are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Those that were changed in the org within so much time.
    Since(TimeDelta),
    /// All.
    Full,
}

/// What a comparison of one object said.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// The object.
    pub entity: String,
    /// When the comparison began, by our clock.
    pub began: DateTime<Utc>,
    /// Whether all of its records were compared.
    pub full: bool,
    /// Rows that were changed in between were judged; the beginning is open where all were.
    pub from: Option<DateTime<Utc>>,
    /// The end of that time.
    pub to: DateTime<Utc>,
    /// Records of the org that were judged.
    pub judged: u64,
    /// Records that were changed too lately.
    pub young: u64,
    /// Records that differed at first and did not any more when they were looked at again: changes on their way.
    pub settled: u64,
    /// Live records that Kafka holds, of all or of those that it was told of in that time.
    pub held: u64,
    /// On which the two sides differ, by id.
    pub findings: Vec<Finding>,
}

impl Inspected {
    /// Looks at a page of the org for the first time. What it lists is taken out of what is `held`.
    fn take(&mut self, page: IdPage, held: &mut Copy, candidates: &mut Candidates) {
        for record in page.records {
            let Some(key) = RecordKey::of(record.id.as_bytes()) else { continue };
            let known = held.remove(&key);
            let there = u64::from(!record.deleted);
            if record.as_of > self.to {
                self.young += there;
                continue;
            }
            self.judged += there;
            if difference(&record, known).is_some() {
                candidates.insert(key, (Some(record), known));
            }
        }
    }

    /// How many findings there are of a kind.
    pub fn count(&self, kind: Difference) -> u64 {
        let count = self.findings.iter().filter(|finding| finding.finding == kind).count();
        u64::try_from(count).unwrap_or(u64::MAX)
    }
}

/// Compares the objects of one stream.
#[derive(Debug, Clone)]
pub struct Inspector {
    /// Reads the org.
    pub reader: RecordReader,
    /// Where the records are.
    pub kafka: KafkaSettings,
    /// Whose they are.
    pub identity: StreamIdentity,
    /// The objects that the stream polls.
    pub polls: Vec<PollConfig>,
    /// The percentage of an object's records that may be missing from the org.
    pub most_absent: u64,
    /// From so many records on all ids of an object are listed over Bulk.
    pub bulk_from: u64,
    /// Of the org's API requests, the percentage from which on nothing is asked; none where somebody waits for the answer.
    pub api_share: Option<u64>,
}

/// What differed at first, by key: the org's side and Kafka's.
type Candidates = BTreeMap<RecordKey, (Option<ListedRecord>, Option<Known>)>;

impl Inspector {
    /// The objects whose records the stream carries: of a channel, those of which it wrote the newest record. Those
    /// that it polls come last.
    ///
    /// # Errors
    /// When the topics cannot be read.
    pub async fn entities(&self) -> Result<Vec<String>, Unable> {
        let mut entities = match self.identity.topic.kind() {
            TopicKind::Entity(entity) => vec![entity],
            TopicKind::ChangeChannel => read_back::entities(&self.kafka, &self.identity).await?,
            // Platform events are in no table.
            TopicKind::PlatformEvent(_) | TopicKind::PlatformChannel => Vec::new(),
        };
        let polled = self.polls.iter().map(|poll| &poll.entity).filter(|entity| !entities.contains(*entity));
        entities.extend(polled.cloned().collect::<Vec<_>>());
        Ok(entities)
    }

    /// How long what was changed may wait for the next poll; nothing for what comes by events.
    fn polled_every(&self, entity: &str) -> Option<TimeDelta> {
        let poll = self.polls.iter().find(|poll| poll.entity == entity)?;
        Some(TimeDelta::from_std(poll.every).unwrap_or(TimeDelta::days(1)))
    }

    /// Whether records of an object come by events.
    pub(super) fn is_told(&self, entity: &str) -> bool {
        self.polled_every(entity).is_none()
    }

    /// Compares one object. `progress` is told how many records of the org have been listed.
    ///
    /// # Errors
    /// When one of the sides cannot be read, or when what is missing looks like lost access.
    pub async fn inspect(
        &self,
        entity: &str,
        extent: Extent,
        standing: &Standing,
        mut progress: impl FnMut(u64),
    ) -> Result<Inspected, Unable> {
        let within = self.within(extent, standing)?;
        let began = Utc::now();
        // What Kafka was told of a row that is stamped within the time was written after its beginning.
        let scan_from = match extent {
            Extent::Full => ScanFrom::Beginning,
            Extent::Since(length) => since(began, length),
        };
        let mut held = self.held(entity, scan_from).await?;
        let mut inspected = Inspected {
            entity: entity.to_owned(),
            began,
            full: extent == Extent::Full,
            from: within.map(|within| within.from),
            to: standing.judged_to() - self.polled_every(entity).unwrap_or_default(),
            judged: 0,
            young: 0,
            settled: 0,
            held: count(held.values().filter(|known| known.alive).count()),
            findings: Vec::new(),
        };
        let (mut listing, mut listed) = (self.listing(entity, within).await?, 0);
        let mut candidates = Candidates::new();
        while let Some(page) = self.next_page(entity, &mut listing).await? {
            listed += count(page.records.len());
            progress(listed);
            inspected.take(page, &mut held, &mut candidates);
        }
        if inspected.full {
            // What is left was not listed.
            let to = inspected.to.timestamp();
            let unlisted = held.into_iter().filter(|(_, known)| known.alive && known.as_of <= to);
            candidates.extend(unlisted.map(|(key, known)| (key, (None, Some(known)))));
        }
        if !candidates.is_empty() {
            self.look_again(&mut inspected, candidates).await?;
        }
        Ok(inspected)
    }

    /// The time of which the org is asked; none for all.
    fn within(&self, extent: Extent, standing: &Standing) -> Result<Option<ChangedWithin>, Unable> {
        let Extent::Since(length) = extent else { return Ok(None) };
        let now = self.reader.client().session().salesforce_now();
        let from = now.checked_sub_signed(length).unwrap_or(DateTime::UNIX_EPOCH);
        if from >= standing.judged_to() {
            return Err(Unable::Behind { topic: self.identity.topic.clone(), position: standing.position });
        }
        Ok(Some(ChangedWithin { from, to: now }))
    }

    /// Reads both sides of what differed again, the org first.
    async fn look_again(&self, inspected: &mut Inspected, candidates: Candidates) -> Result<(), Unable> {
        let entity = inspected.entity.clone();
        let unlisted = candidates.values().any(|(listed, _)| listed.is_none());
        let (listed, sees_all) = if unlisted {
            let seen_before = self.sees_all(&entity).await?;
            let listed = self.list_again(&entity, &candidates).await?;
            // A permission that was away while the records were listed would make hidden ones of them.
            (listed, seen_before && self.sees_all(&entity).await?)
        } else {
            (self.ask_again(&entity, &candidates).await?, false)
        };
        // What was looked at of a part of the topic may stand before that part.
        let scan_from = if inspected.full { since(inspected.began, TimeDelta::zero()) } else { ScanFrom::Beginning };
        let held = self.held(&entity, scan_from).await?;
        for (key, (before, known)) in candidates {
            let newer = held.get(&key).copied();
            let known = match (known, newer) {
                (Some(known), Some(newer)) => Some(known.then(newer)),
                (known, newer) => newer.or(known),
            };
            let now = listed.get(&key);
            let finding = match (&before, now) {
                (Some(before), Some(now)) if before == now => {
                    difference(now, known).filter(|_| is_old(known, inspected.to))
                }
                (None, None) if known.is_some_and(|known| known.alive) && is_old(known, inspected.to) => {
                    Some(if sees_all { Difference::Extra } else { Difference::Unseen })
                }
                _ => None,
            };
            let Some(finding) = finding else {
                inspected.settled += 1;
                continue;
            };
            let (changed_at, known_to) = (now.map(|now| now.as_of), known.map(|known| time(known.as_of)));
            inspected.findings.push(Finding { finding, id: key.id(), changed_at, known_to });
        }
        self.check_access(inspected)
    }

    /// Many missing records at once look like lost access.
    fn check_access(&self, inspected: &Inspected) -> Result<(), Unable> {
        let absent = inspected.count(Difference::Extra) + inspected.count(Difference::Unseen);
        let held = inspected.held;
        if absent > FEW && absent.saturating_mul(100) > self.most_absent.saturating_mul(held) {
            return Err(Unable::LostAccess { entity: inspected.entity.clone(), absent, held });
        }
        Ok(())
    }

    async fn held(&self, entity: &str, from: ScanFrom) -> Result<Copy, Unable> {
        let (org, topic): (&OrgId, _) = (&self.identity.org, format!("{}.{entity}", self.identity.prefix));
        Ok(copy(&self.kafka, &topic, org, from).await?)
    }

    /// Begins a listing: over Bulk, if it is of a whole object that is large, and over REST where Bulk does not do it.
    async fn listing(&self, entity: &str, within: Option<ChangedWithin>) -> Result<Listing, Unable> {
        self.within_share()?;
        let client = self.reader.client();
        if within.is_some() || !client.has_at_least(self.bulk_from, entity, Instant::now() + PATIENCE).await? {
            return Ok(Listing::Rest { within, after: None });
        }
        match self.reader.list_in_bulk(entity).await {
            Ok(listing) => Ok(Listing::Bulk(Box::new(listing))),
            Err(BulkError::Rest(error)) => Err(error.into()),
            Err(error) => {
                info!(entity, error = %error, "all ids are listed over rest");
                Ok(Listing::Rest { within, after: None })
            }
        }
    }

    /// The rest of a listing, a page at a time. One that is at its end, or cannot go on, gives back what it holds.
    async fn next_page(&self, entity: &str, listing: &mut Listing) -> Result<Option<IdPage>, Unable> {
        let page = self.page(entity, listing).await;
        let over = page.as_ref().map_or(true, |page| page.as_ref().is_none_or(|page| page.last));
        if over && let Listing::Bulk(bulk) = std::mem::replace(listing, Listing::Ended) {
            bulk.end().await;
        }
        page
    }

    async fn page(&self, entity: &str, listing: &mut Listing) -> Result<Option<IdPage>, Unable> {
        let page = match listing {
            Listing::Ended => return Ok(None),
            Listing::Rest { within, after } => {
                self.within_share()?;
                let (behind, deadline) = (after.as_deref(), Instant::now() + PATIENCE);
                let page = match within {
                    None => self.reader.ids_after(entity, behind, deadline).await?,
                    Some(within) => self.reader.changed_ids_after(entity, *within, behind, deadline).await?,
                };
                if let Some(last) = page.records.last() {
                    *after = Some(last.id.clone());
                }
                page
            }
            Listing::Bulk(bulk) => {
                self.within_share()?;
                bulk.next_page().await?
            }
        };
        Ok(Some(page))
    }

    /// What a full listing says of the candidates.
    async fn list_again(
        &self,
        entity: &str,
        candidates: &Candidates,
    ) -> Result<HashMap<RecordKey, ListedRecord>, Unable> {
        let (mut listing, mut found) = (self.listing(entity, None).await?, HashMap::new());
        while let Some(page) = self.next_page(entity, &mut listing).await? {
            let keyed =
                page.records.into_iter().filter_map(|record| Some((RecordKey::of(record.id.as_bytes())?, record)));
            found.extend(keyed.filter(|(key, _)| candidates.contains_key(key)));
        }
        Ok(found)
    }

    /// What the org says of the candidates by their ids.
    async fn ask_again(
        &self,
        entity: &str,
        candidates: &Candidates,
    ) -> Result<HashMap<RecordKey, ListedRecord>, Unable> {
        self.within_share()?;
        let ids: Vec<String> = candidates.keys().map(RecordKey::id).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let mut found = HashMap::new();
        // As many as a page of a listing has, so that each has the time of one.
        for ids in ids.chunks(2_000) {
            let records = self.reader.listed(entity, ids, Instant::now() + PATIENCE).await?;
            found.extend(records.into_iter().filter_map(|record| Some((RecordKey::of(record.id.as_bytes())?, record))));
        }
        Ok(found)
    }

    async fn sees_all(&self, entity: &str) -> Result<bool, Unable> {
        Ok(self.reader.client().sees_all_records(entity, Instant::now() + PATIENCE).await?)
    }

    /// Leaves the rest of the org's API requests to others.
    pub(super) fn within_share(&self) -> Result<(), Unable> {
        let (Some(share), Some(usage)) = (self.api_share, self.reader.client().usage()) else { return Ok(()) };
        let used = usage.used.saturating_mul(100).checked_div(usage.maximum).unwrap_or(100);
        // The figure of a client that asks nothing gets old; one question tells.
        let fresh = Utc::now() - usage.at < TimeDelta::minutes(5);
        if fresh && used >= share { Err(Unable::Share { used }) } else { Ok(()) }
    }
}

/// How far a listing is.
enum Listing {
    /// By id, a page behind the last id of the page before.
    Rest {
        within: Option<ChangedWithin>,
        after: Option<String>,
    },
    /// In no order.
    Bulk(Box<BulkListing>),
    Ended,
}

/// Whether what Kafka was told last is old enough to be judged. A delete or an undelete may be under way otherwise.
fn is_old(known: Option<Known>, to: DateTime<Utc>) -> bool {
    known.is_none_or(|known| known.as_of <= to.timestamp())
}

/// Everything that was written in the `length` before `now`.
fn since(now: DateTime<Utc>, length: TimeDelta) -> ScanFrom {
    let from = now.checked_sub_signed(length).and_then(|from| from.checked_sub_signed(CLOCKS));
    from.map_or(ScanFrom::Beginning, ScanFrom::Timestamp)
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
