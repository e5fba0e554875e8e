//! Signing in, and what the organisation says of itself.

use std::sync::Arc;

use chrono::TimeDelta;
use serde::Deserialize;
use tokio::time::Instant;

use crate::config::Config;
use crate::doctor::fault::CheckError;
use crate::doctor::finding::{Area, Outcome, Report};
use crate::doctor::{ANSWER, allowances, network, soon};
use crate::failure::Failure;
use crate::salesforce::query::Scope;
use crate::salesforce::rest::RestError;
use crate::salesforce::rest_client::RestClient;
use crate::salesforce::session::{CLOCK_TOLERANCE, Session, Token};

const AREA: Area = Area::Salesforce;
/// What needs a token, in its order.
const SIGNED_IN: [&str; 5] = ["api version", "rest api", "organization", "api requests", "delivered events"];

/// The editions that have the Pub/Sub API (Pub/Sub API guide, "Get Started"), as the organisation names them.
const EDITIONS: [&str; 4] = ["Enterprise", "Performance", "Unlimited", "Developer"];

/// Signs in and asks for everything that concerns the organisation as a whole. `None` without a token.
pub async fn examine(config: &Config, session: &Session, report: &mut Report<'_>) -> Option<Arc<Token>> {
    let signed_in = soon("The login server", session.token()).await;
    let token = match signed_in {
        Ok(Ok(token)) => token,
        Ok(Err(error)) => {
            refused(session, error.failure(), report);
            return None;
        }
        Err(failure) => {
            refused(session, failure, report);
            return None;
        }
    };
    let expected = match &config.salesforce.org_id {
        Some(_) => "as `org_id` says",
        None => "`org_id` is not set, so any other would do as well",
    };
    let what = format!("organisation {} at {}, {expected}", token.org_id(), token.instance_origin());
    report.add(AREA, "sign-in", Outcome::Ok(what));
    report.add(AREA, "clock", clock(session.clock_offset()));
    let instance = token.instance_url();
    if instance.host_str() != config.salesforce.login_url.host_str() {
        let authority = config.salesforce.certificate_authority.as_deref();
        if !report.add(AREA, "instance host", network::host(instance, authority, false).await) {
            report.skip(AREA, SIGNED_IN, "the instance host cannot be reached");
            report.skip(AREA, ["bulk jobs"], "the instance host cannot be reached");
            return Some(token);
        }
    }
    report.add(AREA, "api version", api_version(session).await);
    let limits = allowances::ask(session).await;
    report.add(AREA, "rest api", allowances::rest_api(&limits));
    let Ok(limits) = limits else {
        report.skip(
            AREA,
            ["organization", "api requests", "delivered events", "bulk jobs"],
            "the REST API does not answer",
        );
        return Some(token);
    };
    report.add(AREA, "organization", organization(session).await);
    allowances::examine(config, &limits, report);
    Some(token)
}

/// The clock is known from a refusal as well, and is often the reason for it.
fn refused(session: &Session, failure: Failure, report: &mut Report<'_>) {
    report.add(AREA, "sign-in", Outcome::Failed(failure));
    report.add(AREA, "clock", clock(session.clock_offset()));
    skip(report, "the sign-in failed");
}

/// The rows of an organisation that nobody can ask.
pub fn skip(report: &mut Report<'_>, because: &str) {
    report.skip(AREA, SIGNED_IN, because);
    report.skip(AREA, ["bulk jobs"], because);
}

/// `ahead` is Salesforce's clock minus this machine's.
fn clock(ahead: Option<TimeDelta>) -> Outcome {
    let Some(ahead) = ahead else {
        return Outcome::Skipped("no answer of Salesforce told the time".to_owned());
    };
    let seconds = ahead.num_seconds();
    let what = match seconds {
        0 => "this machine's clock agrees with Salesforce's".to_owned(),
        1.. => format!("this machine's clock is {seconds} s behind Salesforce's"),
        _ => format!("this machine's clock is {} s ahead of Salesforce's", seconds.abs()),
    };
    if ahead.abs() <= CLOCK_TOLERANCE {
        return Outcome::Ok(what);
    }
    let remedy = "Set the clock (`timedatectl set-ntp true`). casewire signs by Salesforce's time once it knows it, but ages and the \
                  times in the log are this machine's.";
    Outcome::warning(capital(&what), remedy)
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[derive(Debug, Deserialize)]
struct ApiVersion {
    version: String,
}

async fn api_version(session: &Session) -> Outcome {
    let configured = session.api_version();
    let asked = soon("The instance", session.get_json::<Vec<ApiVersion>>("/services/data")).await;
    let versions: Vec<String> = match asked {
        Ok(Ok(versions)) => versions.into_iter().map(|version| version.version).collect(),
        Ok(Err(error)) => return Outcome::Failed(error.failure()),
        Err(failure) => return Outcome::Failed(failure),
    };
    let (oldest, newest) = (versions.first().map_or("", String::as_str), versions.last().map_or("", String::as_str));
    if versions.iter().any(|version| version == configured) {
        return Outcome::Ok(format!("{configured}; the organisation's newest is {newest}"));
    }
    let (configured, oldest, newest) = (configured.to_owned(), oldest.to_owned(), newest.to_owned());
    Outcome::failed(CheckError::ApiVersion { configured, oldest, newest })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Organization {
    name: String,
    organization_type: String,
    instance_name: Option<String>,
    is_sandbox: bool,
}

async fn organization(session: &Session) -> Outcome {
    match read_organization(session).await {
        Ok(found) => judge(&found),
        // It is told for the operator's sake; nothing rests on it.
        Err(error) => Outcome::Skipped(format!("the organisation does not tell: {error}")),
    }
}

async fn read_organization(session: &Session) -> Result<Organization, RestError> {
    let soql = "SELECT Name, OrganizationType, InstanceName, IsSandbox FROM Organization";
    let mut query = RestClient::new(session.clone()).query(soql, Scope::Live)?;
    let page = query.next_page(Instant::now() + ANSWER).await?;
    let row = page.and_then(|page| page.records.into_iter().next());
    let unexpected = || RestError::Unexpected("Organization has no row".to_owned());
    let row = row.ok_or_else(unexpected)?;
    serde_json::from_str(row.get()).map_err(|_| RestError::Unexpected("a row of Organization".to_owned()))
}

fn judge(found: &Organization) -> Outcome {
    let kind = if found.is_sandbox { "a sandbox" } else { "production" };
    let instance = found.instance_name.as_deref().unwrap_or("unknown");
    let what = format!("{}: {}, {kind}, instance {instance}", found.name, found.organization_type);
    if EDITIONS.iter().any(|edition| found.organization_type.starts_with(edition)) {
        return Outcome::Ok(what);
    }
    let remedy = "The Pub/Sub API needs Enterprise, Performance, Unlimited or Developer Edition; ask your Salesforce account team.";
    Outcome::warning(what, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_warned_of_in_its_direction() {
        let at = |seconds| clock(Some(TimeDelta::seconds(seconds)));
        assert_eq!((at(3).word(), at(-20).word(), clock(None).word()), ("ok", "ok", "skipped"));
        assert!(at(90).what().starts_with("This machine's clock is 90 s behind"), "{:?}", at(90));
        assert!(at(-90).what().starts_with("This machine's clock is 90 s ahead of"), "{:?}", at(-90));
        assert_eq!(at(90).word(), "warning");
    }

    #[test]
    fn an_edition_without_the_pub_sub_api_is_named() {
        let org = |edition: &str| Organization {
            name: "Acme".into(),
            organization_type: edition.into(),
            instance_name: None,
            is_sandbox: true,
        };
        assert_eq!(judge(&org("Enterprise Edition")).word(), "ok");
        let other = judge(&org("Professional Edition"));
        assert_eq!(other.word(), "warning");
        assert!(other.what().contains("Professional Edition, a sandbox"), "{other:?}");
    }
}
