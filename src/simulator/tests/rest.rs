//! The REST API: records by id, describe and queries, over a real socket.

use std::collections::HashSet;

use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::{assertion, config, exchange, start};
use crate::simulator::{EventOrder, Fault, Simulator};

/// A signed-in bare HTTP client.
pub(super) struct Api {
    http: reqwest::Client,
    base: String,
    token: String,
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Status, code and message of a refusal.
    pub(super) fn refusal(&self) -> (u16, String, String) {
        let error = self.json()[0].clone();
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        (self.status, text("errorCode"), text("message"))
    }
}

impl Api {
    pub(super) async fn new(simulator: &Simulator) -> Self {
        let (_, token) = exchange(simulator, &assertion(simulator, |_| {})).await;
        let token = token["access_token"].as_str().expect("a token").to_owned();
        let base = format!("{}/services/data/v66.0", simulator.instance_url());
        Self { http: reqwest::Client::new(), base, token }
    }

    pub(super) async fn send_raw(&self, request: reqwest::RequestBuilder) -> reqwest::Response {
        request.bearer_auth(&self.token).send().await.expect("an answer")
    }

    pub(super) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = self.send_raw(request).await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, text: response.text().await.expect("a text") }
    }

    pub(super) fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(reqwest::Method::GET, path)).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(reqwest::Method::POST, path).json(body)).await
    }

    pub(super) async fn query(&self, resource: &str, soql: &str) -> Answer {
        let query: String = url::form_urlencoded::byte_serialize(soql.as_bytes()).collect();
        self.get(&format!("/{resource}?q={query}")).await
    }

    pub(super) async fn ids(&self, resource: &str, soql: &str) -> Vec<String> {
        let answer = self.query(resource, soql).await;
        let records = answer.json()["records"].as_array().unwrap_or_else(|| panic!("{}", answer.text)).clone();
        records.iter().map(|record| record["Id"].as_str().expect("an id").to_owned()).collect()
    }

    async fn retrieve(&self, entity: &str, ids: &[&str], fields: &[&str]) -> Answer {
        self.post(&format!("/composite/sobjects/{entity}"), &json!({ "ids": ids, "fields": fields })).await
    }
}

async fn org() -> (Simulator, Api) {
    let simulator = start(config().await).await;
    let api = Api::new(&simulator).await;
    (simulator, api)
}

async fn create(simulator: &Simulator, order: EventOrder) -> String {
    let line = simulator.control().publish(order).await.expect("published").remove(0);
    line.record_ids.first().expect("an id").clone()
}

fn case() -> EventOrder {
    EventOrder::new("Case", "CREATE")
}

#[tokio::test]
async fn a_retrieve_has_one_slot_for_each_id_in_order_and_null_for_what_cannot_be_read() {
    let (simulator, api) = org().await;
    let control = simulator.control();
    let kept = create(&simulator, case().with("Subject", "kept")).await;
    let deleted = create(&simulator, case()).await;
    let hidden = create(&simulator, case()).await;
    control.publish(EventOrder::new("Case", "DELETE").on([deleted.as_str()])).await.expect("published");
    control.inflict(Fault::HideRecords { record_ids: vec![hidden.clone()] }).await.expect("inflicted");
    let unknown = "5008d00000zzzzzAAA".to_owned();
    let ids = [&deleted, &kept, &hidden, &kept[..15], &kept, "nonsense", "5008d0000ZZZZZZ", &unknown];
    let answer = api.retrieve("Case", &ids, &["Id", "subject"]).await;
    let url = format!("/services/data/v66.0/sobjects/Case/{kept}");
    let row = json!({ "attributes": { "type": "Case", "url": url }, "Id": kept, "Subject": "kept" });
    assert_eq!(answer.json(), json!([null, row, null, row, row, null, null, null]));
    assert!(answer.text.starts_with(r#"[null,{"attributes":{"type":"Case","url":"/services/"#), "{}", answer.text);
    control.inflict(Fault::ShowRecords { record_ids: vec![hidden.clone()] }).await.expect("inflicted");
    control.publish(EventOrder::new("Case", "UNDELETE").on([deleted.as_str()])).await.expect("published");
    let answer = api.retrieve("Case", &[&deleted, &hidden], &["Id"]).await.json();
    assert!(answer[0]["Id"] == json!(deleted) && answer[1]["Id"] == json!(hidden), "{answer}");
    control
        .inflict(Fault::HardDelete { entity: "Case".to_owned(), record_ids: vec![kept.clone()] })
        .await
        .expect("gone");
    assert_eq!(api.retrieve("Case", &[&kept], &["Id"]).await.json(), json!([null]));
    assert_eq!(api.ids("queryAll", "SELECT Id FROM Case").await.len(), 2, "not in the recycle bin either");
    assert_eq!(control.stats().api_calls["retrieve"], 3);
}

#[tokio::test]
async fn a_retrieve_is_refused_in_the_words_of_salesforce() {
    let (simulator, api) = org().await;
    let id = create(&simulator, case()).await;
    let refusal = async |entity: &str, ids: &[&str], fields: &[&str]| api.retrieve(entity, ids, fields).await.refusal();
    let words = |status: u16, code: &str, message: &str| (status, code.to_owned(), message.to_owned());
    let no_column = "No such column 'Foo' on sobject of type Case";
    assert_eq!(refusal("Case", &[&id], &["Foo"]).await, words(400, "INVALID_FIELD", no_column));
    let wrong = "0018d00000AbCdEAAV";
    let answer = api.retrieve("Case", &[&id, &wrong[..15]], &["Id"]).await;
    let message = format!("Case ID: id value of incorrect type: {}", &wrong[..15]);
    assert_eq!(answer.refusal(), words(400, "MALFORMED_ID", &message));
    assert_eq!(answer.json()[0]["fields"], json!(["Id"]));
    let many = vec![id.as_str(); 2_001];
    let message = "record limit reached. cannot submit more than 2000 records into this call";
    assert_eq!(refusal("Case", &many, &["Id"]).await, words(400, "EXCEEDED_ID_LIMIT", message));
    assert_eq!(api.retrieve("Case", &many[..2_000], &["Id"]).await.json().as_array().map(Vec::len), Some(2_000));
    let missing = words(404, "NOT_FOUND", "The requested resource does not exist");
    assert_eq!(refusal("Lead", &[&id], &["Id"]).await, missing);
    assert_eq!(refusal("Case_Escalation__e", &[&id], &["Id"]).await, missing);
    let (status, code, _) = api.post("/composite/sobjects/Case", &json!({ "ids": [id] })).await.refusal();
    assert_eq!((status, code.as_str()), (400, "JSON_PARSER_ERROR"));
    let plain = api.request(reqwest::Method::POST, "/composite/sobjects/Case").body(r#"{"ids":[],"fields":["Id"]}"#);
    assert_eq!(api.send(plain).await.status, 415);
}

#[tokio::test]
async fn values_have_the_forms_of_rest() {
    let (simulator, api) = org().await;
    let order = EventOrder::new("Installation__c", "CREATE")
        .with("Site_Address__c", json!({ "Street": "12 Main Street", "City": "Zürich", "Latitude": 47.25 }))
        .with("Billing_Address__c", Value::Null)
        .with("Site_Location__c", json!({ "Latitude": 1.0, "Longitude": -2.5 }))
        .with("Devices__c", 3)
        .with("Monthly_Fee__c", 12_500_000)
        .with("Commissioned_On__c", "2022-05-31")
        .with("Service_Window__c", "04:03:15.000Z")
        .with("Next_Visit__c", "2026-02-17T04:03:15.000Z")
        .with("Features__c", json!(["Router", "Mesh"]))
        .with("Active__c", Value::Null)
        .with("Portal__c", "");
    let id = create(&simulator, order).await;
    let fields = "Site_Address__c,Site_Address__City__s,Billing_Address__c,Billing_Address__City__s,Site_Location__c,Devices__c,\
                  Monthly_Fee__c,Commissioned_On__c,Service_Window__c,Next_Visit__c,Features__c,Active__c,Portal__c,IsDeleted";
    let answer = api.get(&format!("/sobjects/Installation__c/{id}?fields={fields}")).await;
    let expected = [
        r#""Site_Address__c":{"city":"Zürich","country":null,"countryCode":null,"geocodeAccuracy":null,"latitude":47.25,"longitude":null,"postalCode":null,"state":null,"stateCode":null,"street":"12 Main Street"}"#,
        r#""Site_Address__City__s":"Zürich""#,
        r#""Billing_Address__c":null"#,
        r#""Billing_Address__City__s":null"#,
        r#""Site_Location__c":{"latitude":1.0,"longitude":-2.5}"#,
        r#""Devices__c":3.0"#,
        r#""Monthly_Fee__c":1.25E7"#,
        r#""Commissioned_On__c":"2022-05-31""#,
        r#""Service_Window__c":"04:03:15.000Z""#,
        r#""Next_Visit__c":"2026-02-17T04:03:15.000+0000""#,
        r#""Features__c":"Router;Mesh""#,
        r#""Active__c":false"#,
        r#""Portal__c":null"#,
        r#""IsDeleted":false"#,
    ];
    let (_, values) = answer.text.split_once("},").expect("the attributes end");
    assert_eq!(values, format!("{}}}", expected.join(",")));
    simulator
        .control()
        .publish(EventOrder::new("Installation__c", "DELETE").on([id.as_str()]))
        .await
        .expect("published");
    let gone = api.get(&format!("/sobjects/Installation__c/{id}")).await.refusal();
    assert_eq!(gone, (404, "ENTITY_IS_DELETED".to_owned(), "entity is deleted".to_owned()));
}

#[tokio::test]
async fn describe_tells_every_field_that_the_user_may_see() {
    let (simulator, api) = org().await;
    let described = api.get("/sobjects/Case/describe").await.json();
    assert_eq!((&described["name"], &described["keyPrefix"]), (&json!("Case"), &json!("500")));
    let names = |described: &Value| -> Vec<String> {
        let fields = described["fields"].as_array().expect("fields");
        fields.iter().map(|field| field["name"].as_str().expect("a name").to_owned()).collect()
    };
    let all = names(&described);
    assert_eq!(all[..4], ["Id", "IsDeleted", "MasterRecordId", "CaseNumber"]);
    assert!(all.windows(2).any(|pair| pair == ["LastModifiedById", "SystemModstamp"]));
    let field = |described: &Value, name: &str| {
        let fields = described["fields"].as_array().expect("fields").clone();
        fields.into_iter().find(|field| field["name"] == name).unwrap_or_else(|| panic!("no {name}"))
    };
    let subject = field(&described, "Subject");
    let expected = [("type", json!("string")), ("length", json!(255)), ("nillable", json!(true))];
    assert!(expected.iter().all(|(member, value)| subject[member] == *value), "{subject}");
    assert_eq!(field(&described, "Id")["type"], "id");
    assert_eq!(field(&described, "ContactId")["referenceTo"], json!(["Contact"]));
    let installation = api.get("/sobjects/installation__c/describe").await.json();
    assert_eq!(field(&installation, "Site_Address__City__s")["compoundFieldName"], "Site_Address__c");
    assert_eq!(field(&installation, "Site_Address__c")["type"], "address");
    let control = simulator.control();
    let hide = |entity: &str, field: &str| Fault::HideField { entity: entity.to_owned(), field: field.to_owned() };
    control.inflict(hide("Installation__c", "Site_Address__c")).await.expect("inflicted");
    let less = names(&api.get("/sobjects/Installation__c/describe").await.json());
    assert!(!less.iter().any(|name| name.starts_with("Site_Address__")), "{less:?}");
    assert!(control.inflict(hide("Case", "CreatedDate")).await.is_err(), "a system field");
    control.inflict(Fault::AddField { entity: "Case".to_owned(), field: "Tier__c".to_owned() }).await.expect("added");
    assert_eq!(names(&api.get("/sobjects/Case/describe").await.json()).last().map(String::as_str), Some("Tier__c"));
    let listed = api.get("/sobjects/").await.json();
    let listed: HashSet<&str> =
        listed["sobjects"].as_array().expect("a list").iter().filter_map(|one| one["name"].as_str()).collect();
    assert!(listed.contains("MessagingSession") && listed.contains("Case_Escalation__e"));
    control.inflict(Fault::Deny { entity: "Case".to_owned() }).await.expect("inflicted");
    assert_eq!(api.get("/sobjects/Case/describe").await.refusal().1, "NOT_FOUND");
    assert_eq!(api.query("query", "SELECT Id FROM Case").await.refusal().1, "INVALID_TYPE");
}
