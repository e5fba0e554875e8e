//! The table of faults, and what of them is still to happen.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::simulator::control::EventOrder;
use crate::simulator::record_store::RecordKey;

/// Salesforce itself gives up on a call after so long.
const LONGEST_DELAY: Duration = Duration::from_secs(600);

/// Something that goes wrong on purpose. Over the control port: `POST /faults` with
/// `{"kind": "cut-streams"}`, and the fields of the kind beside it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// Every Subscribe call is reset (`RST_STREAM`, `INTERNAL_ERROR`).
    CutStreams,
    /// Every Subscribe call ends with OK.
    EndStreams,
    /// Every Subscribe call ends with this error.
    FailStreams {
        /// The gRPC status as a number.
        status: i32,
        /// With or without the common prefix.
        error_code: String,
        /// The message, to which the id of the call is added.
        message: String,
    },
    /// Every Pub/Sub connection is closed at once, as by a reset of the network.
    DropConnections,
    /// Every Pub/Sub connection is sent GOAWAY; open calls go on.
    GoAway,
    /// Every Pub/Sub connection stays open and nothing passes any more, pings included.
    BlackHole,
    /// The org is down: every connection is closed, and new ones as soon as they are made. The control port stays.
    Unreachable,
    /// Ends [`Fault::Unreachable`].
    Reachable,
    /// Open and new calls stay open without events or keepalives; pings are answered.
    Silence,
    /// Ends [`Fault::Silence`].
    Speak,
    /// No more traffic is generated.
    PauseTraffic,
    /// Ends [`Fault::PauseTraffic`].
    ResumeTraffic,
    /// Every access token becomes invalid. Open calls go on.
    RevokeTokens,
    /// The next token requests are refused.
    RefuseSignIn {
        /// `invalid_grant`, …
        error: String,
        /// The text beside it.
        description: String,
        /// The HTTP status; 400 for OAuth errors.
        status: u16,
        /// How many requests.
        times: u32,
    },
    /// The next GetSchema calls fail.
    FailGetSchema {
        /// The gRPC status as a number.
        status: i32,
        /// With or without the common prefix.
        error_code: String,
        /// How many calls.
        times: u32,
    },
    /// The next Subscribe call begins so many events before where it asked to.
    Redeliver {
        /// How many events.
        events: u64,
    },
    /// Everything published so far leaves retention; every position given out is invalid.
    ExpireRetention,
    /// The org moves: all positions are invalid, the counter restarts lower, the instance has a new URL.
    ResetBus,
    /// An object gets a new text field: later events have a new schema.
    AddField {
        /// The API name of the object.
        entity: String,
        /// The API name of the field, `…__c`.
        field: String,
    },
    /// The change type enumeration of an object gets a new symbol.
    AddChangeType {
        /// The API name of the object.
        entity: String,
        /// The symbol.
        symbol: String,
    },
    /// The payloads of the next events cannot be decoded.
    Poison {
        /// How many events.
        events: u64,
    },
    /// The next HTTP calls, OAuth and REST, are answered with this status and an HTML page.
    FailHttp {
        /// 500, 503, …
        status: u16,
        /// How many calls.
        times: u32,
    },
    /// Only so many events more are delivered before the allocation of the day is used up.
    Allocation {
        /// How many.
        left: i64,
    },
    /// The user loses the permission on an entity.
    Deny {
        /// The API name of the object.
        entity: String,
    },
    /// The user gets it back.
    Allow {
        /// The API name of the object.
        entity: String,
    },
    /// The org's clock jumps.
    ShiftClock {
        /// Forward; negative = back.
        seconds: i64,
    },
    /// The user may not see these records any more; their events go on.
    HideRecords {
        /// Of any object.
        record_ids: Vec<String>,
    },
    /// Ends [`Fault::HideRecords`].
    ShowRecords {
        /// Of any object.
        record_ids: Vec<String>,
    },
    /// Field-level security hides a field: not in describe or queries, and without a value in later events.
    HideField {
        /// The API name of the object.
        entity: String,
        /// The API name of the field.
        field: String,
    },
    /// Ends [`Fault::HideField`].
    ShowField {
        /// The API name of the object.
        entity: String,
        /// The API name of the field.
        field: String,
    },
    /// A custom field is deleted: later events have another schema, queries that name it fail.
    RemoveField {
        /// The API name of the object.
        entity: String,
        /// The API name of the field, `…__c`.
        field: String,
    },
    /// Only so many REST and Bulk calls more are answered before the requests of the day are used up.
    ApiAllowance {
        /// How many.
        left: u64,
    },
    /// Only so many calls for conversation entries more are answered before those of the hour are used up.
    ConversationCalls {
        /// How many.
        left: u64,
    },
    /// The text of an entry is made unreadable, and no event tells it.
    Redact {
        /// The identifier of the conversation.
        conversation: String,
        /// The identifier of the entry.
        entry: String,
        /// What it says from now on.
        text: String,
    },
    /// An entry is deleted at its source: no API shows it any more, and no event tells it.
    RemoveEntry {
        /// The identifier of the conversation.
        conversation: String,
        /// The identifier of the entry.
        entry: String,
    },
    /// The next REST calls of a resource fail: with an error in JSON, or with an HTML page when no error code is given.
    FailRest {
        /// What the path of the call must contain; nothing = any call.
        #[serde(default)]
        path: String,
        /// 400, 503, …
        status: u16,
        /// `UNABLE_TO_LOCK_ROW`, ….
        #[serde(default)]
        error_code: String,
        /// The text beside it.
        #[serde(default)]
        message: String,
        /// Seconds in the header `Retry-After`.
        #[serde(default)]
        retry_after: Option<u32>,
        /// How many calls.
        times: u32,
    },
    /// The next HTTP calls, OAuth and REST, are answered late.
    DelayHttp {
        /// What the path of the call must contain; nothing = any call.
        #[serde(default)]
        path: String,
        /// How late; at most ten minutes.
        milliseconds: u32,
        /// How many calls.
        times: u32,
    },
    /// The next Bulk jobs fail.
    FailBulk {
        /// Their `errorMessage`.
        message: String,
        /// How many jobs.
        times: u32,
    },
    /// Bulk jobs stay in progress.
    HoldBulk,
    /// Ends [`Fault::HoldBulk`].
    ReleaseBulk,
    /// Of the results of Bulk jobs only the heads are sent, without the rows.
    HoldResults,
    /// Ends [`Fault::HoldResults`].
    ReleaseResults,
    /// Records change and no event tells it.
    ChangeSilently {
        /// As for an event; `UPDATE` without fields changes what is drawn.
        #[serde(flatten)]
        change: EventOrder,
    },
    /// Records are gone, from the recycle bin too, and no event tells it.
    HardDelete {
        /// The API name of the object.
        entity: String,
        /// Which.
        record_ids: Vec<String>,
    },
}

impl Fault {
    /// The name of the kind, as in the control protocol.
    pub fn kind(&self) -> String {
        let json = serde_json::to_value(self).ok();
        json.and_then(|json| Some(json.get("kind")?.as_str()?.to_owned())).unwrap_or_default()
    }

    /// What undoes a fault that lasts until it is undone.
    pub(crate) fn ending(&self) -> Option<Self> {
        match self {
            Self::Unreachable => Some(Self::Reachable),
            Self::Silence => Some(Self::Speak),
            Self::PauseTraffic => Some(Self::ResumeTraffic),
            Self::HoldBulk => Some(Self::ReleaseBulk),
            Self::HoldResults => Some(Self::ReleaseResults),
            Self::Deny { entity } => Some(Self::Allow { entity: entity.clone() }),
            _ => None,
        }
    }

    /// The kinds that a client must survive without a gap: the table of random faults.
    pub fn survivable() -> Vec<Self> {
        let unavailable = "The service is unavailable. Try again later.".to_owned();
        let refuse = |error: &str, description: &str, status| Self::RefuseSignIn {
            error: error.to_owned(),
            description: description.to_owned(),
            status,
            times: 1,
        };
        vec![
            Self::CutStreams,
            Self::EndStreams,
            Self::FailStreams { status: 13, error_code: "service.unavailable".to_owned(), message: unavailable },
            Self::DropConnections,
            Self::GoAway,
            Self::BlackHole,
            Self::Unreachable,
            Self::RevokeTokens,
            refuse("server_error", "try again", 500),
            Self::FailGetSchema { status: 14, error_code: "schema.api.unavailable".to_owned(), times: 2 },
            Self::Redeliver { events: 20 },
            Self::FailHttp { status: 503, times: 2 },
        ]
    }
}

/// A token request to be refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusedSignIn {
    pub(crate) error: String,
    pub(crate) description: String,
    pub(crate) status: u16,
}

/// A REST call to be answered with an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RestFailure {
    pub(crate) path: String,
    pub(crate) status: u16,
    /// Empty: an HTML page instead of JSON.
    pub(crate) error_code: String,
    pub(crate) message: String,
    pub(crate) retry_after: Option<u32>,
}

#[derive(Debug, Default)]
struct Pending {
    rest: VecDeque<(RestFailure, u32)>,
    delays: VecDeque<((String, Duration), u32)>,
    bulk: VecDeque<(String, u32)>,
    sign_ins: VecDeque<(RefusedSignIn, u32)>,
    schemas: VecDeque<((i32, String), u32)>,
    http: VecDeque<(u16, u32)>,
    redeliver: u64,
    denied: HashSet<String>,
    hidden_records: HashSet<RecordKey>,
    /// As `Case.SuppliedEmail`.
    hidden_fields: HashSet<String>,
}

/// The faults that wait for their occasion.
#[derive(Debug)]
pub(crate) struct Script {
    pending: Mutex<Pending>,
}

/// Takes one of so many from the front.
fn take<T: Clone>(queue: &mut VecDeque<(T, u32)>) -> Option<T> {
    take_fitting(queue, |_| true)
}

/// Takes one of so many from the first that fits.
fn take_fitting<T: Clone>(queue: &mut VecDeque<(T, u32)>, fits: impl Fn(&T) -> bool) -> Option<T> {
    let at = queue.iter().position(|(fault, _)| fits(fault))?;
    let (fault, left) = queue.get_mut(at)?;
    let fault = fault.clone();
    *left = left.saturating_sub(1);
    if *left == 0 {
        queue.remove(at);
    }
    Some(fault)
}

impl Script {
    pub(crate) fn new(denied: &[String], hidden_fields: &[String]) -> Self {
        let (denied, hidden_fields) = (denied.iter().cloned().collect(), hidden_fields.iter().cloned().collect());
        Self { pending: Mutex::new(Pending { denied, hidden_fields, ..Pending::default() }) }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // Queues and sets are never left half changed.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn refuse_sign_in(&self, refused: RefusedSignIn, times: u32) {
        if times > 0 {
            self.pending().sign_ins.push_back((refused, times));
        }
    }

    pub(crate) fn refused_sign_in(&self) -> Option<RefusedSignIn> {
        take(&mut self.pending().sign_ins)
    }

    pub(crate) fn fail_schemas(&self, status: i32, error_code: String, times: u32) {
        if times > 0 {
            self.pending().schemas.push_back(((status, error_code), times));
        }
    }

    pub(crate) fn failed_schema(&self) -> Option<(i32, String)> {
        take(&mut self.pending().schemas)
    }

    pub(crate) fn fail_http(&self, status: u16, times: u32) {
        if times > 0 {
            self.pending().http.push_back((status, times));
        }
    }

    pub(crate) fn failed_http(&self) -> Option<u16> {
        take(&mut self.pending().http)
    }

    pub(crate) fn fail_rest(&self, failure: RestFailure, times: u32) {
        if times > 0 {
            self.pending().rest.push_back((failure, times));
        }
    }

    pub(crate) fn failed_rest(&self, path: &str) -> Option<RestFailure> {
        take_fitting(&mut self.pending().rest, |failure| path.contains(&failure.path))
    }

    pub(crate) fn delay_http(&self, path: String, delay: Duration, times: u32) {
        if times > 0 {
            self.pending().delays.push_back(((path, delay.min(LONGEST_DELAY)), times));
        }
    }

    pub(crate) fn delayed_http(&self, path: &str) -> Option<Duration> {
        take_fitting(&mut self.pending().delays, |(part, _)| path.contains(part)).map(|(_, delay)| delay)
    }

    pub(crate) fn fail_bulk(&self, message: String, times: u32) {
        if times > 0 {
            self.pending().bulk.push_back((message, times));
        }
    }

    pub(crate) fn failed_bulk(&self) -> Option<String> {
        take(&mut self.pending().bulk)
    }

    pub(crate) fn redeliver(&self, events: u64) {
        self.pending().redeliver = events;
    }

    /// How many events the next call begins early; asked once.
    pub(crate) fn redelivered(&self) -> u64 {
        std::mem::take(&mut self.pending().redeliver)
    }

    pub(crate) fn deny(&self, entity: &str, denied: bool) {
        let mut pending = self.pending();
        if denied {
            pending.denied.insert(entity.to_owned());
        } else {
            pending.denied.remove(entity);
        }
    }

    pub(crate) fn is_denied(&self, entity: &str) -> bool {
        self.pending().denied.contains(entity)
    }

    pub(crate) fn hide_records(&self, keys: &[RecordKey], hidden: bool) {
        let mut pending = self.pending();
        for key in keys {
            if hidden {
                pending.hidden_records.insert(*key);
            } else {
                pending.hidden_records.remove(key);
            }
        }
    }

    pub(crate) fn is_hidden(&self, key: RecordKey) -> bool {
        self.pending().hidden_records.contains(&key)
    }

    /// The records that the user may not see although the object is his to read.
    pub(crate) fn hidden_records(&self) -> HashSet<RecordKey> {
        self.pending().hidden_records.clone()
    }

    pub(crate) fn hide_field(&self, entity: &str, field: &str, hidden: bool) {
        let path = format!("{entity}.{field}");
        let mut pending = self.pending();
        if hidden {
            pending.hidden_fields.insert(path);
        } else {
            pending.hidden_fields.remove(&path);
        }
    }

    /// The fields of an object that the user may not see.
    pub(crate) fn hidden_fields(&self, entity: &str) -> Vec<String> {
        let pending = self.pending();
        let of_entity = pending.hidden_fields.iter().filter_map(|path| path.strip_prefix(entity)?.strip_prefix('.'));
        of_entity.map(str::to_owned).collect()
    }

    pub(crate) fn denies_any(&self) -> bool {
        !self.pending().denied.is_empty()
    }
}
