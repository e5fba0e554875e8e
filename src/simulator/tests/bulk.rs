//! The query jobs of the Bulk API 2.0.

use reqwest::Method;
use serde_json::{Value, json};

use super::rest::{Answer, Api};
use super::{config, start};
use crate::simulator::{BulkDateTime, EventOrder, Fault, Simulator, SimulatorConfig};

async fn org_with(change: impl FnOnce(&mut SimulatorConfig)) -> (Simulator, Api) {
    let mut config = config().await;
    change(&mut config);
    let simulator = start(config).await;
    let api = Api::new(&simulator).await;
    (simulator, api)
}

async fn job(api: &Api, body: Value) -> String {
    let answer = api.post("/jobs/query", &body).await;
    answer.json()["id"].as_str().unwrap_or_else(|| panic!("{}", answer.text)).to_owned()
}

async fn patch(api: &Api, id: &str, body: &Value) -> Answer {
    api.send(api.request(Method::PATCH, &format!("/jobs/query/{id}")).json(body)).await
}

async fn state(api: &Api, id: &str) -> Value {
    api.get(&format!("/jobs/query/{id}")).await.json()["state"].clone()
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers[name].to_str().expect("a text")
}

#[tokio::test]
async fn a_job_goes_through_its_states_and_its_results_come_in_pages() {
    let (simulator, api) = org_with(|_| {}).await;
    let control = simulator.control();
    let order = EventOrder { rows: 60, ..EventOrder::new("Case", "GAP_OVERFLOW") };
    control.publish(order).await.expect("published");
    control.inflict(Fault::HoldBulk).await.expect("inflicted");
    let created =
        api.post("/jobs/query", &json!({ "operation": "query", "query": "SELECT Id FROM Case" })).await.json();
    let told = |json: &Value, names: &[&str]| names.iter().map(|name| json[*name].clone()).collect::<Vec<_>>();
    let names = ["operation", "object", "state", "contentType", "apiVersion", "lineEnding", "columnDelimiter"];
    let expected = json!(["query", "Case", "UploadComplete", "CSV", 66.0, "LF", "COMMA"]);
    assert_eq!(json!(told(&created, &names)), expected);
    let id = created["id"].as_str().expect("an id");
    let path = format!("/jobs/query/{id}");
    assert_eq!(state(&api, id).await, "InProgress");
    assert_eq!(api.get(&format!("{path}/results")).await.status, 400, "nothing yet");
    assert_eq!(api.send(api.request(Method::DELETE, &path)).await.status, 400, "it is not over");
    // What changes while the job works is not in it.
    control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    control.inflict(Fault::ReleaseBulk).await.expect("inflicted");
    let status = api.get(&path).await.json();
    let names = ["state", "jobType", "numberRecordsProcessed", "isPkChunkingSupported"];
    assert_eq!(json!(told(&status, &names)), json!(["JobComplete", "V2Query", 60, true]));
    let (mut locator, mut ids, mut sizes) = (String::new(), Vec::new(), Vec::new());
    while locator != "null" {
        let place = if locator.is_empty() { String::new() } else { format!("&locator={locator}") };
        let page = api.get(&format!("{path}/results?maxRecords=25{place}")).await;
        assert_eq!(header(&page, "content-type"), "text/csv");
        let mut lines = page.text.lines();
        assert_eq!(lines.next(), Some("\"Id\""), "the header is on every page");
        let rows: Vec<String> = lines.map(|line| line.trim_matches('"').to_owned()).collect();
        assert_eq!(header(&page, "Sforce-NumberOfRecords"), rows.len().to_string());
        sizes.push(rows.len());
        ids.extend(rows);
        locator = header(&page, "Sforce-Locator").to_owned();
    }
    assert_eq!(sizes, [25, 25, 10]);
    let truth = control.records("Case").expect("records");
    let expected: Vec<String> = truth.into_iter().map(|one| one.id).take(60).collect();
    assert_eq!(ids, expected);
    let whole = api.get(&format!("{path}/results")).await;
    assert_eq!((whole.text.lines().count(), header(&whole, "Sforce-Locator")), (61, "null"));
    let other = format!("{}/services/data/v65.0{path}/results", simulator.instance_url());
    assert_eq!(api.send(reqwest::Client::new().get(other)).await.status, 409, "another version");
    for wrong in ["?locator=rubbish", "?locator=OTk5", "?maxRecords=0"] {
        assert_eq!(api.get(&format!("{path}/results{wrong}")).await.status, 400, "{wrong}");
    }
    assert_eq!(api.send(api.request(Method::DELETE, &path)).await.status, 204);
    assert_eq!(api.send(api.request(Method::PUT, &path)).await.refusal().1, "METHOD_NOT_ALLOWED");
    let missing = (404, "NOT_FOUND".to_owned(), "The requested resource does not exist".to_owned());
    assert_eq!(api.get(&path).await.refusal(), missing);
}

#[tokio::test]
async fn pages_can_be_fetched_side_by_side() {
    let (simulator, api) = org_with(|config| config.rest.bulk_page_rows = 10).await;
    let order = EventOrder { rows: 65, ..EventOrder::new("Case", "GAP_OVERFLOW") };
    simulator.control().publish(order).await.expect("published");
    let id = job(&api, json!({ "operation": "query", "query": "SELECT Id FROM Case" })).await;
    let (mut sizes, mut pages) = (Vec::new(), Vec::new());
    let mut next = Some(format!("/services/data/v66.0/jobs/query/{id}/resultPages"));
    let local = |url: &str| url.strip_prefix("/services/data/v66.0").expect("the base").to_owned();
    while let Some(url) = next {
        let answer = api.get(&local(&url)).await.json();
        let urls = answer["resultPages"].as_array().expect("pages").clone();
        pages.push(urls.len());
        for url in urls {
            let page = api.get(&local(url["resultUrl"].as_str().expect("a URL"))).await;
            sizes.push(page.text.lines().count() - 1);
        }
        next = answer["nextRecordsUrl"].as_str().map(str::to_owned);
        assert_eq!(answer["done"], json!(next.is_none()));
    }
    assert_eq!((pages, sizes), (vec![5, 2], vec![10, 10, 10, 10, 10, 10, 5]));
}

#[tokio::test]
async fn rows_are_csv_with_everything_in_quotes() {
    let (simulator, api) = org_with(|_| {}).await;
    let control = simulator.control();
    let order = EventOrder::new("Installation__c", "CREATE")
        .with("Name", "say \"hi\"\r\nthere, twice")
        .with("Devices__c", 3)
        .with("Active__c", true)
        .with("Next_Visit__c", "2026-02-17T04:03:15.000Z")
        .with("Features__c", json!(["Router", "Mesh"]))
        .with("Portal__c", Value::Null)
        .with("Site_Location__c", json!({ "Latitude": 47.5, "Longitude": 8.25 }));
    let id = control.publish(order).await.expect("published").remove(0).record_ids.remove(0);
    let fields = "Name, Devices__c, Active__c, Next_Visit__c, Features__c, Portal__c, Site_Location__Latitude__s, Id";
    let soql = format!("SELECT {fields} FROM Installation__c");
    let first = job(&api, json!({ "operation": "query", "query": soql })).await;
    let results = api.get(&format!("/jobs/query/{first}/results")).await.text;
    let heading = format!("\"{}\"\n", fields.replace(", ", "\",\""));
    let row = format!(
        "\"say \"\"hi\"\"\r\nthere, twice\",\"3.0\",\"true\",\"2026-02-17T04:03:15.000Z\",\"Router;Mesh\",\"\",\"47.5\",\"{id}\"\n"
    );
    assert_eq!(results, format!("{heading}{row}"));
    let odd = json!({ "operation": "queryAll", "query": "SELECT Id, IsDeleted FROM Installation__c", "columnDelimiter": "PIPE", "lineEnding": "CRLF" });
    control.publish(EventOrder::new("Installation__c", "DELETE").on([id.as_str()])).await.expect("published");
    let odd = job(&api, odd).await;
    let results = api.get(&format!("/jobs/query/{odd}/results")).await.text;
    assert_eq!(results, format!("\"Id\"|\"IsDeleted\"\r\n\"{id}\"|\"true\"\r\n"));
    let (simulator, api) = org_with(|config| config.rest.bulk_date_time = BulkDateTime::Offset).await;
    let order = EventOrder::new("Case", "CREATE").with("ClosedDate", "2026-02-17T04:03:15.000Z");
    simulator.control().publish(order).await.expect("published");
    let other = job(&api, json!({ "operation": "query", "query": "SELECT ClosedDate FROM Case" })).await;
    let results = api.get(&format!("/jobs/query/{other}/results")).await.text;
    assert_eq!(results, "\"ClosedDate\"\n\"2026-02-17T04:03:15.000+0000\"\n");
    let none = job(&api, json!({ "operation": "query", "query": "SELECT Id FROM MessagingSession" })).await;
    let empty = api.get(&format!("/jobs/query/{none}/results")).await;
    assert_eq!((empty.text.as_str(), header(&empty, "Sforce-NumberOfRecords")), ("\"Id\"\n", "0"));
}

#[tokio::test]
async fn jobs_are_refused_fail_and_are_aborted() {
    let (simulator, api) = org_with(|config| config.rest.bulk_jobs = 2).await;
    let control = simulator.control();
    let refuse =
        async |query: &str| api.post("/jobs/query", &json!({ "operation": "query", "query": query })).await.refusal();
    let (_, _, message) = refuse("SELECT Site_Address__c FROM Installation__c").await;
    assert_eq!(message, "Selecting compound data not supported in Bulk Query");
    assert_eq!(refuse("SELECT COUNT() FROM Case").await.0, 400);
    assert_eq!(refuse("SELECT Foo FROM Case").await.1, "INVALID_FIELD");
    let body = json!({ "operation": "insert", "query": "SELECT Id FROM Case" });
    assert_eq!(api.post("/jobs/query", &body).await.refusal().1, "JSON_PARSER_ERROR");
    let message = "InternalServerError : Retried more than 15 times";
    control.inflict(Fault::FailBulk { message: message.to_owned(), times: 1 }).await.expect("inflicted");
    let failing = job(&api, json!({ "operation": "query", "query": "SELECT Id FROM Case" })).await;
    let status = api.get(&format!("/jobs/query/{failing}")).await.json();
    assert_eq!((&status["state"], &status["errorMessage"]), (&json!("Failed"), &json!(message)));
    control.inflict(Fault::HoldBulk).await.expect("inflicted");
    let aborted = job(&api, json!({ "operation": "query", "query": "SELECT Id FROM Case" })).await;
    assert_eq!(patch(&api, &aborted, &json!({ "state": "InProgress" })).await.status, 400);
    assert_eq!(patch(&api, &aborted, &json!({ "state": "Aborted" })).await.json()["state"], "Aborted");
    assert_eq!(state(&api, &aborted).await, "Aborted");
    assert_eq!(patch(&api, &aborted, &json!({ "state": "Aborted" })).await.status, 400, "it is over");
    let spent = refuse("SELECT Id FROM Case").await;
    let words = "Max bulk v2 query jobs (2) per 24 hrs has been reached";
    assert_eq!(spent, (400, "LIMIT_EXCEEDED".to_owned(), words.to_owned()));
    assert_eq!(api.get("/limits").await.json()["DailyBulkV2QueryJobs"], json!({ "Max": 2, "Remaining": 0 }));
    let stats = control.stats();
    assert_eq!((stats.api_calls["bulk-create"], stats.api_calls["bulk-abort"]), (7, 3));
}

#[tokio::test]
async fn calls_fail_and_wait_as_ordered() {
    let (simulator, api) = org_with(|_| {}).await;
    let control = simulator.control();
    let fail = |path: &str, status, error_code: &str, retry_after| Fault::FailRest {
        path: path.to_owned(),
        status,
        error_code: error_code.to_owned(),
        message: "unable to obtain exclusive access to this record".to_owned(),
        retry_after,
        times: 1,
    };
    control.inflict(fail("/query", 400, "UNABLE_TO_LOCK_ROW", None)).await.expect("inflicted");
    control.inflict(fail("/composite", 503, "", Some(7))).await.expect("inflicted");
    control.inflict(fail("/describe", 401, "INVALID_SESSION_ID", None)).await.expect("inflicted");
    assert_eq!(api.get("/limits").await.status, 200, "another resource");
    let locked = api.query("query", "SELECT Id FROM Case").await;
    assert_eq!((locked.status, locked.refusal().1.as_str()), (400, "UNABLE_TO_LOCK_ROW"));
    assert_eq!(header(&locked, "sforce-limit-info"), "api-usage=1/100000");
    assert_eq!(api.query("query", "SELECT Id FROM Case").await.status, 200, "once");
    let down = api.post("/composite/sobjects/Case", &json!({ "ids": [], "fields": ["Id"] })).await;
    assert!(down.status == 503 && down.text.starts_with("<html>") && header(&down, "retry-after") == "7");
    assert_eq!(api.get("/sobjects/Case/describe").await.status, 401);
    let before = tokio::time::Instant::now();
    let delay = Fault::DelayHttp { path: "/limits".to_owned(), milliseconds: 200, times: 1 };
    control.inflict(delay).await.expect("inflicted");
    assert_eq!(api.get("/limits").await.status, 200);
    assert!(before.elapsed() >= std::time::Duration::from_millis(200));
}
