//! Reading over REST, against a server that answers by script.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::response::Response;
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use crate::change::FieldPolicies;
use crate::config::FieldChoice;
use crate::identity::SchemaId;
use crate::salesforce::backoff::BackoffLimits;
use crate::salesforce::describe::Descriptions;
use crate::salesforce::query::Scope;
use crate::salesforce::record_read::{Found, RecordReader};
use crate::salesforce::rest::{RestError, RestVerdict};
use crate::salesforce::rest_client::RestClient;
use crate::salesforce::scripted::{Asked, ORG, PATIENCE, ScriptedHttp, answer, granted, session, soon};

/// An org of which a test says what it answers: login and REST on one host.
struct Org {
    client: RestClient,
    server: ScriptedHttp,
    /// The resources asked for, in order; sign-ins are not among them.
    log: Arc<Mutex<Vec<String>>>,
}

impl Org {
    async fn start(script: impl Fn(&Asked, usize) -> Response + Clone + Send + Sync + 'static) -> Self {
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = log.clone();
        let server = ScriptedHttp::start(move |asked| {
            if asked.path.ends_with("/token") {
                return granted(&format!("token-{}", asked.number), &asked.host, ORG);
            }
            let number = {
                let mut log = seen.lock().expect("no panic while noting");
                log.push(asked.path.rsplit("/v66.0/").next().unwrap_or_default().to_owned());
                log.len() - 1
            };
            script(&asked, number)
        })
        .await;
        let backoff = BackoffLimits::new(Duration::from_millis(2), Duration::from_millis(8)).expect("valid");
        let client = RestClient::with_backoff(session(&server.url), backoff);
        Self { client, server, log }
    }

    fn reader(&self) -> RecordReader {
        RecordReader::new(
            self.client.clone(),
            Descriptions::new(self.client.clone(), FieldChoice::All, FieldPolicies::default()),
        )
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().expect("no panic while noting").clone()
    }
}

fn error(status: u16, code: &str, message: &str) -> Response {
    answer(status, json!([{"message": message, "errorCode": code}]).to_string())
}

fn with_header(mut response: Response, name: &'static str, value: &str) -> Response {
    response.headers_mut().insert(name, value.parse().expect("header"));
    response
}

fn describe(fields: &[&str]) -> Response {
    let kind = |name: &&str| match *name {
        "Id" => "id",
        "IsDeleted" => "boolean",
        "SystemModstamp" => "datetime",
        _ => "string",
    };
    let fields: Vec<_> =
        fields.iter().map(|name| json!({"name": name, "type": kind(name), "compoundFieldName": null})).collect();
    answer(200, json!({"name": "Case", "fields": fields}).to_string())
}

const FIELDS: [&str; 4] = ["Id", "IsDeleted", "SystemModstamp", "Subject"];

fn case(id: &str) -> Json {
    json!({"attributes": {"type": "Case"}, "Id": id, "IsDeleted": false,
        "SystemModstamp": "2026-11-22T10:15:04.000+0000", "Subject": format!("Subject of {id}")})
}

/// What the script of most tests answers: describe, and every record that is asked for.
fn serve(asked: &Asked) -> Response {
    if asked.path.ends_with("/describe") {
        return describe(&FIELDS);
    }
    let ids = asked.json["ids"].as_array().cloned().unwrap_or_default();
    let rows: Vec<_> = ids.iter().map(|id| case(id.as_str().expect("an id"))).collect();
    answer(200, json!(rows).to_string())
}

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("5008d00000{number:08}")).collect()
}

fn texts(ids: &[String]) -> Vec<&str> {
    ids.iter().map(String::as_str).collect()
}

fn later() -> Instant {
    Instant::now() + PATIENCE
}

#[tokio::test]
async fn a_batch_is_read_in_one_call_and_what_is_not_there_is_looked_for_in_the_recycle_bin() {
    let org = Org::start(|asked, _| {
        if asked.path.ends_with("/queryAll") {
            let soql = &asked.query["q"];
            assert!(soql.starts_with("SELECT Id, IsDeleted, SystemModstamp FROM Case WHERE Id IN ('"), "{soql}");
            let row = |id: &str, deleted: bool| {
                json!({"Id": id, "IsDeleted": deleted, "SystemModstamp": "2026-11-22T10:16:00.000+0000"})
            };
            let records = [row("5008d0000000000001", true), row("5008d0000000000002", false)];
            return answer(200, json!({"totalSize": 2, "done": true, "records": records}).to_string());
        }
        if asked.path.ends_with("/describe") {
            return serve(asked);
        }
        assert_eq!(asked.json["fields"], json!(FIELDS));
        let mut rows: Vec<_> = asked.json["ids"].as_array().expect("ids").iter().map(|id| case(id.as_str().expect("id"))).collect();
        rows[1..4].fill(Json::Null);
        rows[4]["IsDeleted"] = json!(true);
        rows[5]["SystemModstamp"] = json!("yesterday");
        answer(200, json!(rows).to_string())
    })
    .await;
    let ids = ids(2_000);
    let schema = SchemaId::from("one");
    let found = soon(org.reader().read("Case", Some(&schema), &texts(&ids), later())).await.expect("read");
    assert_eq!(org.log(), ["sobjects/Case/describe", "composite/sobjects/Case", "queryAll"]);
    assert_eq!(found.len(), ids.len());
    let Found::Row(row) = &found[&ids[0]] else { panic!("{:?}", found[&ids[0]]) };
    assert_eq!(
        row.record.as_str(),
        format!(
            r#"{{"Id":"{0}","IsDeleted":false,"SystemModstamp":"2026-11-22T10:15:04.000Z","Subject":"Subject of {0}"}}"#,
            ids[0]
        )
    );
    let binned = "2026-11-22T10:16:00Z".parse().expect("a time");
    assert_eq!(found[&ids[1]], Found::Deleted { as_of: binned });
    assert_eq!(found[&ids[2]], Found::Hidden, "alive for queryAll, and still not to be read");
    assert_eq!(found[&ids[3]], Found::Hidden, "in neither");
    assert!(matches!(found[&ids[4]], Found::Deleted { as_of } if as_of < binned));
    assert!(matches!(found[&ids[5]], Found::Unreadable(_)));
    assert!(ids[6..].iter().all(|id| matches!(&found[id], Found::Row(row) if row.id == *id)));
}

#[tokio::test]
async fn more_ids_than_one_call_takes_are_split_and_large_rows_are_asked_for_in_smaller_parts() {
    let org = Org::start(|asked, number| match number {
        1 => answer(431, "<html>too long</html>"),
        _ => serve(asked),
    })
    .await;
    let reader = org.reader();
    let ids = ids(4_100);
    let found = soon(reader.read("Case", None, &texts(&ids), later())).await.expect("read");
    assert_eq!(found.len(), ids.len());
    assert_eq!(org.log().len(), 1 + 1 + 5, "one describe, one refused, 4,100 by a thousand");
    soon(reader.read("Case", None, &texts(&ids), later())).await.expect("read");
    assert_eq!(org.log().len(), 7 + 3, "small rows are asked for by two thousand again");
}

#[tokio::test]
async fn disturbances_are_waited_for_and_refusals_are_not() {
    let unwell = [
        answer(503, "<html>maintenance</html>"),
        with_header(error(429, "", "slow down"), "retry-after", "0"),
        answer(200, "<!DOCTYPE html><html>Sign in to the proxy</html>"),
        error(400, "UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access"),
    ];
    let unwell = Arc::new(Mutex::new(unwell.into_iter().rev().collect::<Vec<_>>()));
    let org = Org::start(move |asked, _| unwell.lock().expect("script").pop().unwrap_or_else(|| serve(asked))).await;
    let ids = ids(3);
    assert_eq!(soon(org.reader().read("Case", None, &texts(&ids), later())).await.expect("read").len(), 3);
    assert_eq!(org.log().len(), 4 + 2);

    let org = Org::start(|_, _| error(403, "INSUFFICIENT_ACCESS", "no access")).await;
    let refused = soon(org.reader().read("Case", None, &texts(&ids), later())).await.expect_err("refused");
    assert_eq!((refused.verdict(), org.log().len()), (RestVerdict::Stop, 1));

    let org = Org::start(|_, _| answer(502, "")).await;
    let gone = soon(org.reader().read("Case", None, &texts(&ids), later())).await.expect_err("five times");
    assert!(gone.is_retryable());
    assert_eq!(org.log().len(), 5);
}

#[tokio::test]
async fn a_deadline_bounds_waiting_for_a_hint_and_for_an_answer() {
    let org = Org::start(|_, _| with_header(answer(503, ""), "retry-after", "3000")).await;
    let query = |org: &Org| org.client.query("SELECT Id FROM Case", Scope::Live).expect("short");
    let error = soon(query(&org).next_page(later())).await.expect_err("the hint is later than the deadline");
    assert!(matches!(error, RestError::Refused { status: 503, .. }), "{error}");
    assert_eq!(org.log().len(), 1);
    let error = soon(query(&org).next_page(Instant::now())).await.expect_err("no time at all");
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn an_expired_session_is_renewed_once_in_the_middle_of_a_batch() {
    let expired = || error(401, "INVALID_SESSION_ID", "Session expired or invalid");
    let org = Org::start(move |asked, _| match asked.bearer.as_str() {
        "token-0" if asked.path.ends_with("/Case") => expired(),
        _ => serve(asked),
    })
    .await;
    let ids = ids(2);
    assert_eq!(soon(org.reader().read("Case", None, &texts(&ids), later())).await.expect("read").len(), 2);
    assert_eq!(org.log(), ["sobjects/Case/describe", "composite/sobjects/Case", "composite/sobjects/Case"]);
    assert_eq!(org.server.count(), 3 + 2, "two sign-ins");

    let org = Org::start(move |_, _| expired()).await;
    let error = soon(org.reader().read("Case", None, &texts(&ids), later())).await.expect_err("twice");
    assert!(matches!(error, RestError::Refused { status: 401, .. }), "{error}");
    assert_eq!(org.log().len(), 2, "a second refusal is final");
}

#[tokio::test]
async fn a_used_up_allowance_pauses_all_clones_and_says_until_when() {
    let org = Org::start(|_, number| {
        let refused = error(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.");
        with_header(refused, "sforce-limit-info", &format!("api-usage={}/15000", 15_000 + number))
    })
    .await;
    assert_eq!((org.client.usage(), org.client.paused_until()), (None, None));
    let reader = org.reader();
    let ids = ids(1);
    let error = soon(reader.read("Case", None, &texts(&ids), later())).await.expect_err("used up");
    let RestError::Paused(until) = error else { panic!("{error}") };
    let mut other = org.client.clone().query("SELECT Id FROM Case", Scope::All).expect("short");
    assert_eq!(soon(other.next_page(later())).await.expect_err("paused"), RestError::Paused(until));
    assert_eq!(org.client.paused_until(), Some(until));
    assert!(until - chrono::Utc::now() > chrono::TimeDelta::minutes(14));
    assert_eq!(org.log().len(), 1, "nobody asks during the pause");
    let usage = org.client.usage().expect("an answer came");
    assert_eq!((usage.used, usage.maximum), (15_000, 15_000), "read from a refusal, too");
}

#[tokio::test]
async fn the_pause_ends_by_itself() {
    let org = Org::start(|asked, number| match number {
        0 => error(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded."),
        _ => serve(asked),
    })
    .await;
    // The token is there before the time stands still: a paused clock would let the sign-in run into its deadline.
    org.client.session().token().await.expect("granted");
    let ids = ids(1);
    let reader = org.reader();
    let error = soon(reader.read("Case", None, &texts(&ids), later())).await.expect_err("used up");
    assert!(matches!(error, RestError::Paused(_)), "{error}");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(15 * 60 + 1)).await;
    tokio::time::resume();
    assert_eq!(org.client.paused_until(), None);
    assert_eq!(soon(reader.read("Case", None, &texts(&ids), later())).await.expect("read").len(), 1);
}

#[tokio::test]
async fn an_object_is_described_once_a_schema_and_when_a_field_is_gone() {
    let fields = Arc::new(Mutex::new(vec!["Id", "IsDeleted", "SystemModstamp", "Subject", "Old__c"]));
    let there = fields.clone();
    let org = Org::start(move |asked, _| {
        let there = there.lock().expect("script").clone();
        if asked.path.ends_with("/describe") {
            return describe(&there);
        }
        let asked_for = asked.json["fields"].as_array().expect("fields");
        match asked_for.iter().find(|field| !there.contains(&field.as_str().expect("a name"))) {
            Some(field) => error(400, "INVALID_FIELD", &format!("No such column '{field}' on entity 'Case'.")),
            None => serve(asked),
        }
    })
    .await;
    let reader = org.reader();
    let ids = ids(1);
    let read = async |schema: &str| {
        let before = org.log().len();
        let schema = SchemaId::from(schema);
        let found = soon(reader.read("Case", Some(&schema), &texts(&ids), later())).await.expect("read");
        assert!(matches!(found[&ids[0]], Found::Row(_)));
        org.log().split_off(before)
    };
    let (describe, retrieve) = ("sobjects/Case/describe", "composite/sobjects/Case");
    assert_eq!(read("one").await, [describe, retrieve]);
    assert_eq!(read("one").await, [retrieve]);
    assert_eq!(read("two").await, [describe, retrieve], "a new schema");
    assert_eq!(read("one").await, [retrieve], "older events come between");
    fields.lock().expect("script").retain(|field| *field != "Old__c");
    assert_eq!(read("one").await, [retrieve, describe, retrieve], "a field was removed");
    assert_eq!(read("two").await, [retrieve]);
}

#[tokio::test]
async fn fields_are_chosen_by_the_configuration() {
    for (choice, shown) in [
        (FieldChoice::Only(vec!["Subject".into(), "NoSuch__c".into()]), &["Subject"][..]),
        (FieldChoice::Except(vec!["Subject".into(), "SystemModstamp".into()]), &["Id", "IsDeleted"]),
    ] {
        let org = Org::start(|asked, _| serve(asked)).await;
        let reader = RecordReader::new(
            org.client.clone(),
            Descriptions::new(org.client.clone(), choice, FieldPolicies::default()),
        );
        let ids = ids(1);
        let found = soon(reader.read("Case", None, &texts(&ids), later())).await.expect("read");
        let Found::Row(row) = &found[&ids[0]] else { panic!("{found:?}") };
        let record: Json = serde_json::from_str(row.record.as_str()).expect("json");
        let names: Vec<_> = record.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(names, shown, "what places the record is read all the same");
    }
}

#[tokio::test]
async fn a_query_follows_its_pages_and_begins_anew_when_its_cursor_is_gone() {
    let org = Org::start(|asked, number| {
        let next = "/services/data/v66.0/query/01gXX0000000001-2000";
        match (asked.path.as_str(), number) {
            ("/services/data/v66.0/queryAll", _) => {
                assert_eq!(asked.query["q"], "SELECT Id FROM Case WHERE SystemModstamp > 2026-01-01T00:00:00+00:00");
                answer(
                    200,
                    json!({"totalSize": 3, "done": false, "nextRecordsUrl": next, "records": [1, 2]}).to_string(),
                )
            }
            (path, 1) if path == next => answer(200, json!({"totalSize": 3, "done": true, "records": [3]}).to_string()),
            _ => error(400, "INVALID_QUERY_LOCATOR", "invalid query locator"),
        }
    })
    .await;
    let soql = "SELECT Id FROM Case WHERE SystemModstamp > 2026-01-01T00:00:00+00:00";
    let mut query = org.client.query(soql, Scope::All).expect("short");
    let mut records = Vec::new();
    while let Some(page) = soon(query.next_page(later())).await.expect("a page") {
        assert_eq!(page.total_size, 3);
        records.extend(page.records.iter().map(|record| record.get().to_owned()));
    }
    assert_eq!(records, ["1", "2", "3"]);
    let mut again = org.client.query(soql, Scope::All).expect("short");
    soon(again.next_page(later())).await.expect("the first page");
    let gone = soon(again.next_page(later())).await.expect_err("expired");
    assert_eq!(gone.verdict(), RestVerdict::QueryAnew);
    let long = format!("SELECT Id FROM Case WHERE Subject = '{}'", "x".repeat(16_000));
    assert!(org.client.query(&long, Scope::Live).is_err(), "longer than a URI may be");
}

#[tokio::test]
async fn answers_that_do_not_fit_the_question_are_no_records() {
    let short = |asked: &Asked, _| if asked.path.ends_with("/describe") { serve(asked) } else { answer(200, "[null]") };
    let swapped = |asked: &Asked, _| match asked.path.ends_with("/describe") {
        true => serve(asked),
        false => answer(200, json!([case("5008d0000000000001"), case("5008d0000000000000")]).to_string()),
    };
    let leading_away = |_: &Asked, _| {
        let next = "https://elsewhere.example/services/data/v66.0/query/01g";
        answer(200, json!({"totalSize": 3, "nextRecordsUrl": next, "records": []}).to_string())
    };
    let ids = ids(2);
    for org in [Org::start(short).await, Org::start(swapped).await] {
        let error = soon(org.reader().read("Case", None, &texts(&ids), later())).await.expect_err("not an answer");
        assert!(matches!(error, RestError::Unexpected(_)), "{error}");
    }
    let org = Org::start(leading_away).await;
    let mut query = org.client.query("SELECT Id FROM Case", Scope::Live).expect("short");
    soon(query.next_page(later())).await.expect("the first page");
    let error = soon(query.next_page(later())).await.expect_err("the token stays at home");
    assert!(matches!(error, RestError::Path(_)), "{error}");
    let error = soon(org.reader().read("Case/../User", None, &texts(&ids), later())).await.expect_err("no name");
    assert!(matches!(error, RestError::Path(_)), "{error}");
}

#[tokio::test]
async fn a_user_sees_all_records_only_if_salesforce_says_so() {
    let sets = |ids: &[&str]| {
        let records: Vec<Json> = ids.iter().map(|id| json!({"PermissionSetId": id})).collect();
        answer(200, json!({"totalSize": ids.len(), "done": true, "records": records}).to_string())
    };
    let found = |ids: &[&str]| {
        let records: Vec<Json> = ids.iter().map(|id| json!({"Id": id})).collect();
        answer(200, json!({"totalSize": ids.len(), "done": true, "records": records}).to_string())
    };
    let asked = |first: Response, second: Response| {
        let answers = Arc::new(Mutex::new(vec![second, first]));
        Org::start(move |asked: &Asked, number| {
            let soql = asked.query["q"].as_str();
            assert!(number > 0 || soql.ends_with(" WHERE AssigneeId = '0058d000004XyZaAAK'"), "{soql}");
            assert!(
                number == 0 || soql.contains("SobjectType = 'Case' AND PermissionsViewAllRecords = true"),
                "{soql}"
            );
            answers.lock().expect("no panic").pop().expect("two questions")
        })
    };
    let unused = || answer(500, "");
    for (first, second, sees_all, questions) in [
        (sets(&["0PS8d0000000001AAA", "0PS8d0000000002AAA"]), found(&["1108d0000000001AAA"]), true, 2),
        // "Modify All Data" shows so: there is no such row.
        (sets(&["0PS8d0000000001AAA"]), found(&["000000000000000AAA"]), true, 2),
        (sets(&["0PS8d0000000001AAA"]), found(&[]), false, 2),
        (sets(&[]), unused(), false, 1),
        (error(400, "INVALID_TYPE", "sObject type 'PermissionSetAssignment' is not supported."), unused(), false, 1),
        (sets(&["0PS8d0000000001AAA"]), error(403, "INSUFFICIENT_ACCESS", "no"), false, 2),
    ] {
        let org = asked(first, second).await;
        assert_eq!(soon(org.client.sees_all_records("Case", later())).await.expect("told"), sees_all);
        assert_eq!(org.log().len(), questions);
    }
    let org = asked(error(403, "API_DISABLED_FOR_ORG", "no"), unused()).await;
    soon(org.client.sees_all_records("Case", later())).await.expect_err("that is no answer to the question");
    soon(org.client.sees_all_records("Case' OR Id != '", later())).await.expect_err("no name");
}
