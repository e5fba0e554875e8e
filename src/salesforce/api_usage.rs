//! How much of the org's API requests of 24 hours is used, as each answer tells in `Sforce-Limit-Info`.

use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

/// The header, on every answer of REST and Bulk.
const HEADER: &str = "sforce-limit-info";

/// What one answer said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiUsage {
    /// Requests of all clients of the org in the last 24 hours.
    pub used: u64,
    /// How many there may be. The used ones can exceed it: Salesforce grants grace.
    pub maximum: u64,
    /// When the answer came.
    pub at: DateTime<Utc>,
}

/// A figure older than this is no reason to ask nothing: only asking brings a newer one.
const BELIEVED: TimeDelta = TimeDelta::minutes(5);

impl ApiUsage {
    /// Whether it is new enough to decide by.
    pub fn is_fresh(&self) -> bool {
        Utc::now() - self.at < BELIEVED
    }

    /// Reads `api-usage=10018/100000`, also among members that are not known, such as
    /// `api-usage=25/5000; per-app-api-usage=17/250(appName=sample)`.
    fn read(header: &str, at: DateTime<Utc>) -> Option<Self> {
        let members = header.split([';', ',']).filter_map(|member| member.trim().split_once('='));
        let (used, maximum) =
            members.filter(|(key, _)| *key == "api-usage").find_map(|(_, value)| value.split_once('/'))?;
        Some(Self { used: used.parse().ok()?, maximum: maximum.parse().ok()?, at })
    }
}

/// Keeps the newest.
#[derive(Debug, Default)]
pub(crate) struct UsageMeter {
    newest: Mutex<Option<ApiUsage>>,
}

impl UsageMeter {
    /// The newest that is known.
    pub(crate) fn newest(&self) -> Option<ApiUsage> {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns from the headers of an answer.
    pub(crate) fn learn(&self, headers: &http::HeaderMap) {
        let header = headers.get(HEADER).and_then(|value| value.to_str().ok());
        if let Some(usage) = header.and_then(|header| ApiUsage::read(header, Utc::now())) {
            *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(usage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_of_the_org_is_found_among_other_members() {
        for (header, expected) in [
            ("api-usage=10018/100000", Some((10_018, 100_000))),
            ("api-usage=25/5000; per-app-api-usage=17/250(appName=sample-app)", Some((25, 5_000))),
            ("per-app-api-usage=17/250(appName=x), api-usage=25/5000", Some((25, 5_000))),
            ("per-app-api-usage=17/250(appName=api-usage=1/2)", None),
            ("api-usage=many/5000", None),
            ("api-usage=-1/5000", None),
            ("", None),
        ] {
            let read = ApiUsage::read(header, Utc::now());
            assert_eq!(read.map(|usage| (usage.used, usage.maximum)), expected, "{header}");
        }
    }

    #[test]
    fn an_old_figure_is_no_reason_to_ask_nothing() {
        let usage = |minutes| ApiUsage { used: 9, maximum: 9, at: Utc::now() - TimeDelta::minutes(minutes) };
        assert!(usage(4).is_fresh() && !usage(6).is_fresh());
    }

    #[test]
    fn an_answer_without_the_header_leaves_what_is_known() {
        let meter = UsageMeter::default();
        let mut headers = http::HeaderMap::new();
        headers.insert("Sforce-Limit-Info", "api-usage=1/9".parse().expect("header"));
        meter.learn(&headers);
        meter.learn(&http::HeaderMap::new());
        assert_eq!(meter.newest().map(|usage| usage.used), Some(1));
    }
}
