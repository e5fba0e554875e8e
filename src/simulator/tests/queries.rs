//! SOQL over REST: what is found, in batches, and what calls cost.

use reqwest::Method;
use serde_json::{Value, json};

use super::rest::Api;
use super::{config, start};
use crate::simulator::{EventOrder, Fault, Simulator, SimulatorConfig};

async fn org_with(change: impl FnOnce(&mut SimulatorConfig)) -> (Simulator, Api) {
    let mut config = config().await;
    change(&mut config);
    let simulator = start(config).await;
    let api = Api::new(&simulator).await;
    (simulator, api)
}

async fn cases(simulator: &Simulator) -> Vec<String> {
    let case = || EventOrder::new("Case", "CREATE").with("Status", "New").with("Type", Value::Null);
    let orders = [
        case().with("Subject", "alpha").with("Status", "Closed"),
        case().with("Subject", "Beta").with("Type", "Other"),
        case().with("Subject", "gamma").with("Type", "Mechanical"),
    ];
    let mut ids = Vec::new();
    for order in orders {
        let line = simulator.control().publish(order).await.expect("published").remove(0);
        ids.extend(line.record_ids);
    }
    ids
}

#[tokio::test]
async fn conditions_and_orders_find_what_they_say() {
    let (simulator, api) = org_with(|_| {}).await;
    let ids = cases(&simulator).await;
    let stamps: Vec<String> =
        simulator.control().records("Case").expect("records").into_iter().map(|one| one.system_modstamp).collect();
    let (first, last) = (&stamps[0], &stamps[2]);
    let quoted = format!("('{}','{}')", ids[0], &ids[2][..15]);
    let finds = [
        ("Subject = 'ALPHA'".to_owned(), vec![0]),
        ("Subject > 'alpha' AND Subject <= 'gamma'".to_owned(), vec![1, 2]),
        ("Type = null".to_owned(), vec![0]),
        ("Type != 'other'".to_owned(), vec![0, 2]),
        ("Type NOT IN ('Other', null)".to_owned(), vec![2]),
        ("Type < 'Zebra'".to_owned(), vec![1, 2]),
        (format!("Id IN {quoted}"), vec![0, 2]),
        (format!("Id > '{}'", ids[0]), vec![1, 2]),
        (format!("SystemModstamp >= {first} AND SystemModstamp <= {last}"), vec![0, 1, 2]),
        (format!("SystemModstamp < {first}"), vec![]),
        ("Status = 'Closed' OR (Type = 'Other' AND Subject != null)".to_owned(), vec![0, 1]),
        ("IsDeleted = true".to_owned(), vec![]),
    ];
    for (condition, places) in finds {
        let found = api.ids("query", &format!("SELECT Id FROM Case WHERE {condition}")).await;
        let expected: Vec<&String> = places.iter().map(|at: &usize| &ids[*at]).collect();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{condition}");
    }
    let ordered = async |order: &str| api.ids("query", &format!("SELECT Id FROM Case ORDER BY {order}")).await;
    assert_eq!(ordered("Subject DESC").await, [ids[2].clone(), ids[1].clone(), ids[0].clone()]);
    assert_eq!(ordered("Type").await, [ids[0].clone(), ids[2].clone(), ids[1].clone()], "null first");
    assert_eq!(ordered("Type DESC NULLS LAST, Id LIMIT 2").await, [ids[1].clone(), ids[2].clone()]);
    let count = api.query("query", "SELECT COUNT() FROM Case WHERE Type != null").await.json();
    assert_eq!(count, json!({ "totalSize": 2, "done": true, "records": [] }));
}

#[tokio::test]
async fn the_recycle_bin_is_for_query_all_and_hidden_records_are_for_nobody() {
    let (simulator, api) = org_with(|_| {}).await;
    let ids = cases(&simulator).await;
    let control = simulator.control();
    control.publish(EventOrder::new("Case", "DELETE").on([ids[0].as_str()])).await.expect("published");
    control.inflict(Fault::HideRecords { record_ids: vec![ids[1].clone()] }).await.expect("inflicted");
    assert_eq!(api.ids("query", "SELECT Id FROM Case").await, ids[2..]);
    assert_eq!(api.ids("queryAll", "SELECT Id FROM Case WHERE IsDeleted = true").await, ids[..1]);
    let count = api.query("queryAll", "SELECT COUNT() FROM Case").await.json();
    assert_eq!(count["totalSize"], 2);
    let field = |field: &str| ("Case".to_owned(), field.to_owned());
    let (entity, hidden) = field("Subject");
    control.inflict(Fault::HideField { entity: entity.clone(), field: hidden.clone() }).await.expect("inflicted");
    let (status, code, message) = api.query("query", "SELECT Id, Subject FROM Case").await.refusal();
    assert_eq!((status, code.as_str()), (400, "INVALID_FIELD"));
    assert!(
        message.starts_with("\nSELECT Id, Subject FROM Case\n           ^\nERROR at Row:1:Column:12\nNo such column"),
        "{message}"
    );
    let line = control.publish(EventOrder::new("Case", "UPDATE").on([ids[2].as_str()]).with("Subject", "unseen")).await;
    assert!(!line.expect("published")[0].changed.contains_key("Subject"), "nor do events tell it");
    let truth = control.records("Case").expect("records").remove(2);
    assert_eq!(truth.fields["Subject"], "unseen");
    control.inflict(Fault::ShowField { entity, field: hidden }).await.expect("inflicted");
    let shown = api.query("query", "SELECT Subject FROM Case").await.json();
    assert_eq!(shown["records"][0]["Subject"], "unseen");
    let (entity, added) = field("Tier__c");
    control.inflict(Fault::AddField { entity: entity.clone(), field: added.clone() }).await.expect("added");
    assert_eq!(api.query("query", "SELECT Tier__c FROM Case").await.status, 200);
    control.inflict(Fault::RemoveField { entity, field: added }).await.expect("removed");
    assert_eq!(api.query("query", "SELECT Tier__c FROM Case").await.refusal().1, "INVALID_FIELD");
}

#[tokio::test]
async fn what_the_user_may_do_can_be_asked_and_changes_with_what_is_hidden() {
    let (simulator, api) = org_with(|_| {}).await;
    let (ids, control) = (cases(&simulator).await, simulator.control());
    let assigned = api.query("query", "SELECT AssigneeId, PermissionSetId FROM PermissionSetAssignment").await.json();
    let (user, set) = (&assigned["records"][0]["AssigneeId"], &assigned["records"][0]["PermissionSetId"]);
    let (user, set) = (user.as_str().expect("a user"), set.as_str().expect("a set"));
    let of_user =
        |user: &str| format!("SELECT PermissionSetId FROM PermissionSetAssignment WHERE AssigneeId = '{user}'");
    assert_eq!(api.query("query", &of_user(&user[..15])).await.json()["totalSize"], 1);
    assert_eq!(api.query("query", &of_user("0058d0000000001AAA")).await.json()["totalSize"], 0);
    let sees_all = async |object: &str| {
        let soql = format!(
            "SELECT Id FROM ObjectPermissions WHERE SobjectType = '{object}' AND PermissionsViewAllRecords = true AND ParentId IN ('{set}')"
        );
        api.query("query", &soql).await.json()["totalSize"] == 1
    };
    assert!(sees_all("Case").await && sees_all("MessagingSession").await && !sees_all("Order__e").await);
    control.inflict(Fault::HideRecords { record_ids: vec![ids[1].clone()] }).await.expect("inflicted");
    assert!(!sees_all("Case").await && sees_all("MessagingSession").await);
    control.inflict(Fault::ShowRecords { record_ids: vec![ids[1].clone()] }).await.expect("inflicted");
    assert!(sees_all("Case").await);
    control.inflict(Fault::Deny { entity: "Case".to_owned() }).await.expect("inflicted");
    assert!(!sees_all("Case").await);
    for (soql, code) in [
        ("SELECT Name FROM PermissionSetAssignment", "INVALID_FIELD"),
        ("SELECT Id FROM ObjectPermissions WHERE PermissionsViewAllRecords = 'true'", "INVALID_FIELD"),
        ("SELECT Id FROM ObjectPermissions WHERE SobjectType > 'A'", "MALFORMED_QUERY"),
    ] {
        assert_eq!(api.query("query", soql).await.refusal().1, code, "{soql}");
    }
}

#[tokio::test]
async fn long_answers_come_in_batches_that_hold_the_moment_of_the_query() {
    let (simulator, api) = org_with(|_| {}).await;
    let control = simulator.control();
    let overflow = EventOrder { rows: 2_450, ..EventOrder::new("Case", "GAP_OVERFLOW") };
    let line = control.publish(overflow).await.expect("published").remove(0);
    assert_eq!((line.record_ids, line.changed.len()), (vec!["000000000000000AAA".to_owned()], 0));
    let first = api.query("queryAll", "SELECT Id, Subject FROM Case").await.json();
    assert_eq!((&first["totalSize"], &first["done"]), (&json!(2_450), &json!(false)));
    assert_eq!(first["records"].as_array().map(Vec::len), Some(2_000));
    let last_id = control.records("Case").expect("records").last().expect("many").id.clone();
    let silent = Fault::ChangeSilently {
        change: EventOrder::new("Case", "UPDATE").on([last_id.as_str()]).with("Subject", "later"),
    };
    control.inflict(silent).await.expect("inflicted");
    let next = first["nextRecordsUrl"].as_str().expect("a URL").strip_prefix("/services/data/v66.0").expect("the base");
    assert!(next.starts_with("/query/01g") && next.ends_with("-2000"), "{next}");
    let rest = api.get(next).await.json();
    assert_eq!((rest["records"].as_array().map(Vec::len), &rest["done"]), (Some(450), &json!(true)));
    assert!(rest["nextRecordsUrl"].is_null() && rest["records"][449]["Subject"] != "later");
    assert_eq!(api.get(next).await.json(), rest, "a locator can be used again");
    let small =
        api.request(Method::GET, "/query?q=SELECT+Id+FROM+Case").header("Sforce-Query-Options", "batchSize=250");
    let small = api.send(small).await.json();
    assert_eq!(small["records"].as_array().map(Vec::len), Some(250));
    let refused = api.get("/query/01g8d0000000000AAA-2000").await.refusal();
    assert_eq!(refused, (400, "INVALID_QUERY_LOCATOR".to_owned(), "invalid query locator".to_owned()));
    for _ in 0..10 {
        api.query("query", "SELECT Id FROM Case").await;
    }
    assert_eq!(api.get(next).await.refusal().1, "INVALID_QUERY_LOCATOR", "ten others were opened since");
    let (simulator, api) = org_with(|config| config.rest.query_locator_idle = std::time::Duration::ZERO).await;
    let overflow = EventOrder { rows: 2_100, ..EventOrder::new("Case", "GAP_OVERFLOW") };
    simulator.control().publish(overflow).await.expect("published");
    let first = api.query("query", "SELECT Id FROM Case").await.json();
    let next = first["nextRecordsUrl"].as_str().expect("a URL").strip_prefix("/services/data/v66.0").expect("the base");
    assert_eq!(api.get(next).await.refusal().1, "INVALID_QUERY_LOCATOR", "it was idle");
}

#[tokio::test]
async fn calls_are_counted_limited_and_packed() {
    let (simulator, api) = org_with(|config| config.rest.daily_requests = 40).await;
    cases(&simulator).await;
    let control = simulator.control();
    let answer = api.query("query", "SELECT Id FROM Case").await;
    assert_eq!(answer.headers["sforce-limit-info"], "api-usage=1/40");
    assert_eq!(api.query("query", "SELECT").await.headers["sforce-limit-info"], "api-usage=2/40", "errors count");
    control.inflict(Fault::ApiAllowance { left: 1 }).await.expect("inflicted");
    assert_eq!(api.get("/limits").await.json()["DailyApiRequests"], json!({ "Max": 40, "Remaining": 0 }));
    let spent = api.get("/limits").await;
    let words = (403, "REQUEST_LIMIT_EXCEEDED".to_owned(), "TotalRequests Limit exceeded.".to_owned());
    assert_eq!(spent.refusal(), words);
    assert_eq!(spent.headers["sforce-limit-info"], "api-usage=40/40");
    control.inflict(Fault::ApiAllowance { left: 30 }).await.expect("inflicted");
    assert_eq!(api.get("/limits").await.status, 200, "the day is over");
    let long = "a".repeat(16_400);
    assert_eq!(api.get(&format!("/query?q={long}")).await.status, 414);
    let headers = api.request(Method::GET, "/limits").header("X-Long", &long);
    assert_eq!(api.send(headers).await.status, 431);
    let other = format!("{}/services/data/v12.0/limits", simulator.instance_url());
    assert_eq!(api.send(reqwest::Client::new().get(other)).await.status, 404);
    let packed = reqwest::Client::builder().no_gzip().build().expect("a client");
    let url = format!("{}/services/data/v66.0/sobjects/Case/describe", simulator.instance_url());
    let packed = api.send_raw(packed.get(url).header("Accept-Encoding", "gzip")).await;
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    control.inflict(Fault::RevokeTokens).await.expect("inflicted");
    let refused = api.query("query", "SELECT Id FROM Case").await;
    assert_eq!(refused.text, r#"[{"message":"Session expired or invalid","errorCode":"INVALID_SESSION_ID"}]"#);
    let stats = control.stats();
    assert_eq!((stats.api_calls["query"], stats.api_calls["limits"]), (3, 4));
}
