//! Salesforce's time.
//!
//! A machine whose clock is off signs assertions that are refused and misjudges how
//! old a position is. Each HTTP answer carries the server's time in its `Date` header;
//! the difference to the local clock is kept and added.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};

/// The local clock corrected by the newest `Date` header.
#[derive(Debug, Default)]
pub(crate) struct ServerClock {
    /// Server minus local, in milliseconds.
    offset: AtomicI64,
    /// Whether any answer has told the time.
    told: AtomicBool,
}

impl ServerClock {
    /// Salesforce's time, as far as known: the local clock before the first answer.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        let local = Utc::now();
        local.checked_add_signed(self.offset()).unwrap_or(local)
    }

    /// Server time minus local time.
    pub(crate) fn offset(&self) -> TimeDelta {
        TimeDelta::milliseconds(self.offset.load(Ordering::Relaxed))
    }

    /// Server time minus local time; `None` before the first answer.
    pub(crate) fn told_offset(&self) -> Option<TimeDelta> {
        self.told.load(Ordering::Acquire).then(|| self.offset())
    }

    /// Learns from the `Date` header of an answer that took from `sent` until now.
    ///
    /// The header has whole seconds and was written somewhere within the round trip, so
    /// half a second is added and the middle of the trip taken.
    pub(crate) fn learn(&self, headers: &http::HeaderMap, sent: DateTime<Utc>) {
        let date = headers.get(http::header::DATE).and_then(|value| value.to_str().ok());
        let Some(server) = date.and_then(|text| DateTime::parse_from_rfc2822(text).ok()) else { return };
        let received = Utc::now();
        let middle = sent + (received - sent) / 2;
        let offset = (server.to_utc() - middle) + TimeDelta::milliseconds(500);
        self.offset.store(offset.num_milliseconds(), Ordering::Relaxed);
        self.told.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    #[test]
    fn the_clock_follows_the_date_header_and_ignores_what_is_none() {
        let clock = ServerClock::default();
        let mut headers = HeaderMap::new();
        for odd in ["yesterday", "", "Wed, 99 Nov 2026 10:00:00 GMT"] {
            headers.insert("date", odd.parse().expect("header"));
            clock.learn(&headers, Utc::now());
            assert_eq!((clock.offset(), clock.told_offset()), (TimeDelta::zero(), None));
        }
        let ahead = Utc::now() + TimeDelta::hours(2);
        headers.insert("date", ahead.format("%a, %d %b %Y %H:%M:%S GMT").to_string().parse().expect("header"));
        clock.learn(&headers, Utc::now());
        assert!((clock.now() - ahead).abs() < TimeDelta::seconds(30));
    }
}
