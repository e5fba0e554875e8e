//! `[messages]`: how the messages of conversations are fetched.

use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use crate::config::reader::{Findings, Section};
use crate::config::settings::read_url;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The API that gives what was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessagesApi {
    /// The Connect REST API, over the session of everything else.
    Connect,
    /// The Conversation Data API.
    Data,
}

/// `[messages.data_api]`: the app that signs in to the Conversation Data API, by client credentials at the org's My Domain.
#[derive(Debug, Clone)]
pub struct DataApiConfig {
    /// The consumer key.
    pub client_id: String,
    /// The consumer secret.
    pub client_secret: SecretString,
    /// The API's host.
    pub url: Url,
}

/// `[messages]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessagesConfig {
    /// Over which API.
    pub api: MessagesApi,
    /// Calls in any minute over the Conversation Data API, at most, instead of those of the hour. Salesforce's own limit is
    /// 90 for a user.
    pub calls_per_minute: u64,
    /// Calls for entries in any hour, at most. Salesforce's own limit is 1,000 for an application and user.
    pub calls_per_hour: u64,
    /// Different conversations asked for in any half hour, at most: each counts among the org's active ones for so long.
    pub max_active: u64,
    /// Of the org's API requests of 24 hours, used by whomever: the percentage from which messages wait.
    pub api_share: u64,
    /// How long a trigger waits for more of its kind.
    pub settle: Duration,
    /// How far back each fetch looks for entries that changed, or came late.
    pub reread: Duration,
    /// How far back the first fetch of a conversation goes, and the sessions that a snapshot finds are fetched. A conversation that was
    /// quiet for longer is forgotten, so a longer one than before can repeat what was written of it.
    pub history: Duration,
    /// How often the conversation of an open session is looked at while things happen in it.
    pub sweep_least: Duration,
    /// The same after nothing new was found for long; it doubles up to there.
    pub sweep_most: Duration,
    /// How long after a session ended, paused or went inactive its conversation is looked at once more.
    pub final_after: Duration,
    /// How long a session that no query finds, or a conversation that cannot be read, is tried before it becomes an entry of
    /// the gap ledger. It is tried on for [`Self::history`].
    pub give_up_after: Duration,
    /// Whether the records of conversations and of who takes part in them are written beside the messages.
    pub records: bool,
}

impl MessagesConfig {
    pub(in crate::config) fn read(mut section: Section, findings: &mut Findings) -> (Self, Option<DataApiConfig>) {
        let apis = [("connect", MessagesApi::Connect), ("data", MessagesApi::Data)];
        let api = section.choice("api", &apis, Some("connect"), findings).unwrap_or(MessagesApi::Connect);
        let mut data = section.section("data_api", findings);
        let config = Self {
            api,
            calls_per_minute: data.number("calls_per_minute", 80, (4, 100_000), findings),
            calls_per_hour: section.number("calls_per_hour", 900, (4, 1_000_000), findings),
            max_active: section.number("max_active", 500, (1, 100_000), findings),
            api_share: section.number("api_share", 80, (1, 100), findings),
            settle: section.duration("settle", 2 * SECOND, (Duration::from_millis(10), MINUTE), findings),
            reread: section.duration("reread", DAY, (MINUTE, 30 * DAY), findings),
            history: section.duration("history", 7 * DAY, (HOUR, 365 * DAY), findings),
            sweep_least: section.duration("sweep_least", MINUTE, (SECOND, HOUR), findings),
            sweep_most: section.duration("sweep_most", 30 * MINUTE, (SECOND, DAY), findings),
            final_after: section.duration("final_after", 5 * MINUTE, (SECOND, DAY), findings),
            give_up_after: section.duration("give_up_after", DAY, (SECOND, 30 * DAY), findings),
            records: section.flag("records", true, findings),
        };
        if config.sweep_least > config.sweep_most {
            findings.fault(section.path_of("sweep_least"), "is longer than sweep_most");
        }
        section.finish(findings);
        (config, DataApiConfig::read(data, api, findings))
    }
}

impl DataApiConfig {
    fn read(mut section: Section, api: MessagesApi, findings: &mut Findings) -> Option<Self> {
        let client_id = section.text("client_id", findings);
        let client_secret = section.secret("client_secret", findings);
        let url = read_url(&mut section, "url", "https://api.salesforce.com", findings);
        let local = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        if url.scheme() != "https" && !local {
            findings.fault(section.path_of("url"), "would carry the token unencrypted: https:// is expected");
        }
        if api == MessagesApi::Data {
            for (key, missing, meaning) in [
                ("client_id", client_id.is_none(), "the consumer key of the app for the Conversation Data API"),
                ("client_secret_file", client_secret.is_none(), "the file with that app's consumer secret"),
            ] {
                let path = section.path_of(key);
                let known = |fault: &crate::config::Fault| fault.path.starts_with(path.trim_end_matches("_file"));
                if missing && !findings.faults.iter().any(known) {
                    findings.fault(path, format!("is missing, which messages.api = \"data\" needs: {meaning}"));
                }
            }
        }
        section.finish(findings);
        Some(Self { client_id: client_id?, client_secret: client_secret?, url }).filter(|_| api == MessagesApi::Data)
    }
}
