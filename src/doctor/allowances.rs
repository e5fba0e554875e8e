//! What the organisation may still be asked and may still deliver today.

use serde::Deserialize;

use crate::config::{Config, Start};
use crate::doctor::fault::CheckError;
use crate::doctor::finding::{Area, Outcome, Report};
use crate::doctor::soon;
use crate::failure::Failure;
use crate::salesforce::rest::Allowance;
use crate::salesforce::rest_error::USED_UP_PAGE;
use crate::salesforce::session::Session;
use crate::salesforce::verdict::ALLOCATION;

const AREA: Area = Area::Salesforce;

/// Above this share of an allowance, its end is near enough to be spoken of.
const NEARLY_ALL: i64 = 80;

/// Salesforce keeps events for so many days, and delivers them all to a start from the oldest.
const RETENTION_DAYS: i64 = 3;

/// The part of `/limits` that casewire lives within.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct OrgLimits {
    #[serde(rename = "DailyApiRequests")]
    api_requests: Option<Allowance>,
    #[serde(rename = "DailyDeliveredPlatformEvents")]
    delivered_events: Option<Allowance>,
    #[serde(rename = "DailyBulkV2QueryJobs")]
    bulk_jobs: Option<Allowance>,
}

/// Asks for the limits, which every user who may use the API can read.
///
/// # Errors
/// What keeps the user from the REST API.
pub async fn ask(session: &Session) -> Result<OrgLimits, Failure> {
    let path = format!("/services/data/v{}/limits", session.api_version());
    soon("The instance", session.get_json(&path)).await?.map_err(|error| error.failure())
}

/// Whether the REST API answered.
pub fn rest_api(limits: &Result<OrgLimits, Failure>) -> Outcome {
    match limits {
        Ok(_) => Outcome::Ok("answers this user".to_owned()),
        Err(failure) => Outcome::Failed(failure.clone()),
    }
}

/// Adds a finding for each allowance.
pub fn examine(config: &Config, limits: &OrgLimits, report: &mut Report<'_>) {
    report.add(AREA, "api requests", api_requests(limits.api_requests));
    let earliest = config.streams.iter().any(|stream| stream.start == Start::Earliest);
    report.add(AREA, "delivered events", delivered_events(limits.delivered_events, earliest));
    report.add(AREA, "bulk jobs", bulk_jobs(limits.bulk_jobs));
}

fn used(allowance: Allowance) -> i64 {
    allowance.max.saturating_sub(allowance.remaining)
}

fn words(allowance: Allowance) -> String {
    format!("{} of {} used in 24 hours, {} left", used(allowance), allowance.max, allowance.remaining.max(0))
}

fn is_nearly_used_up(allowance: Allowance) -> bool {
    used(allowance).saturating_mul(100) > allowance.max.saturating_mul(NEARLY_ALL)
}

fn not_told() -> Outcome {
    Outcome::Skipped("the organisation does not tell".to_owned())
}

fn api_requests(allowance: Option<Allowance>) -> Outcome {
    let Some(allowance) = allowance else { return not_told() };
    let what = words(allowance);
    if is_nearly_used_up(allowance) { Outcome::warning(what, USED_UP_PAGE) } else { Outcome::Ok(what) }
}

fn delivered_events(allowance: Option<Allowance>, from_earliest: bool) -> Outcome {
    let Some(allowance) = allowance else { return not_told() };
    let what = words(allowance);
    if allowance.remaining <= 0 {
        return Outcome::failed(CheckError::NoDeliveriesLeft(what));
    }
    let expected = used(allowance).saturating_mul(RETENTION_DAYS);
    if from_earliest && expected > allowance.remaining {
        let what = format!(
            "A start from the oldest event may not fit into the delivered events that are left today: about {expected} would be \
             delivered; {what}"
        );
        return Outcome::warning(
            what,
            "Wait for a quieter day, set start = \"latest\", or buy the add-on; a stream that has a position is not concerned.",
        );
    }
    if is_nearly_used_up(allowance) {
        return Outcome::warning(what, ALLOCATION);
    }
    Outcome::Ok(what)
}

fn bulk_jobs(allowance: Option<Allowance>) -> Outcome {
    let Some(allowance) = allowance else { return not_told() };
    let what = words(allowance);
    if is_nearly_used_up(allowance) {
        let remedy = "Other programs make Bulk query jobs: Setup > Environments > Jobs > Bulk Data Load Jobs lists them. The window of 24 hours moves on by itself.";
        return Outcome::warning(what, remedy);
    }
    Outcome::Ok(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(max: i64, remaining: i64) -> Option<Allowance> {
        Some(Allowance { max, remaining })
    }

    #[test]
    fn what_is_used_up_or_nearly_so_is_told_apart() {
        assert_eq!(api_requests(left(100, 20)).word(), "ok");
        assert_eq!(api_requests(left(100, 19)).word(), "warning");
        assert_eq!(bulk_jobs(left(10_000, 0)).word(), "warning");
        assert_eq!(delivered_events(left(100, 0), false).word(), "failed");
        assert_eq!(delivered_events(left(100, -5), false).word(), "failed");
        assert_eq!(delivered_events(left(100, 10), false).word(), "warning");
        assert_eq!(api_requests(None).word(), "skipped");
    }

    #[test]
    fn a_start_from_the_oldest_event_has_to_fit_into_what_is_left() {
        assert_eq!(delivered_events(left(100, 75), true).word(), "ok");
        let tight = delivered_events(left(100, 74), true);
        assert!(tight.what().contains("about 78 would be"), "{tight:?}");
        assert_eq!(delivered_events(left(100, 74), false).word(), "ok");
    }
}
