//! The configuration as an operator meets it.

use std::time::Duration;

use secrecy::ExposeSecret;
use toml::Table;

use crate::config::{
    Config, ConfigError, Environment, FieldChoice, Grant, MessagesApi, OnGap, OnIncomplete, RecordMode, Start, polls_of,
};

const COMPLETE: &str = r#"
    [salesforce]
    username = "integration@example.com"
    client_id = "3MVG9"
    private_key = "pem"
    [[stream]]
    topic = "/data/CaseChangeEvent"
    start = "earliest"
    [kafka]
    brokers = "127.0.0.1:9092"
"#;

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let environment: Environment =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config::from_table(text.parse::<Table>().expect("the test's TOML is valid"), &environment)
}

fn faults(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    match load(text, variables) {
        Err(ConfigError::Faults(faults)) => faults.iter().map(ToString::to_string).collect(),
        other => panic!("faults were expected, not {other:?}"),
    }
}

#[test]
fn the_shortest_configuration_gets_the_safe_defaults() {
    let config = load(COMPLETE, &[]).expect("complete");
    assert_eq!(config.salesforce.login_url.as_str(), "https://login.salesforce.com/");
    assert_eq!(config.salesforce.pubsub.endpoint.host_str(), Some("api.pubsub.salesforce.com"));
    assert_eq!(config.salesforce.pubsub.silence_limit, Duration::from_secs(300));
    assert_eq!(config.streams[0].start, Start::Earliest);
    assert_eq!(config.streams[0].on_gap, OnGap::Earliest);
    assert_eq!(config.kafka.topic_prefix, "salesforce");
    assert!(config.admin.listen.is_none());
}

#[test]
fn the_sandbox_flag_picks_the_login_host_and_login_url_overrides_it() {
    let sandbox = COMPLETE.replace("client_id", "sandbox = true\nclient_id");
    assert_eq!(load(&sandbox, &[]).expect("valid").salesforce.login_url.host_str(), Some("test.salesforce.com"));
    let own = [("CASEWIRE__SALESFORCE__LOGIN_URL", "http://127.0.0.1:8080")];
    assert_eq!(load(&sandbox, &own).expect("valid").salesforce.login_url.port(), Some(8080));
}

#[test]
fn every_fault_is_reported_at_once_with_its_path_and_what_is_allowed() {
    let text = r#"
        surprise = 1
        "" = 1
        [salesforce]
        username = "integration@example.com"
        private_key_file = "/nowhere/key.pem"
        api_version = "44"
        [salesforce.pubsub]
        endpoint = "ftp://example.com"
        silence_limit = "soon"
        [[stream]]
        topic = "CaseChangeEvent"
        [[stream]]
        topic = "/data/CaseChangeEvent"
        start = "now"
        tombstones = "yes"
        [batch]
        max_records = 0
        [kafka]
        topic_prefix = "a b"
        [admin]
        listen = "here"
    "#;
    let found = faults(text, &[]).join("\n");
    for expected in [
        "surprise: is not a key",
        "\"\": is not a key",
        "salesforce.client_id: is missing",
        "salesforce.private_key_file: names /nowhere/key.pem, which cannot be read",
        "salesforce.api_version: is \"44\"",
        "salesforce.pubsub.endpoint: is \"ftp://example.com\"",
        "salesforce.pubsub.silence_limit: is \"soon\", but a duration from \"1s\" to \"1h\"",
        "stream[0].topic: is \"CaseChangeEvent\"",
        "stream[0].start: is missing: \"earliest\" or \"latest\", there is no default",
        "stream[1].start: is \"now\", but \"earliest\" or \"latest\" is allowed",
        "stream[1].tombstones: is \"yes\", but true or false",
        "batch.max_records: is 0, but a whole number from 1",
        "kafka.brokers: is missing",
        "kafka.topic_prefix: is \"a b\"",
        "admin.listen: is \"here\"",
    ] {
        assert!(found.contains(expected), "`{expected}` is not among:\n{found}");
    }
}

#[test]
fn full_records_are_read_when_needed_unless_a_stream_says_otherwise() {
    let config = load(COMPLETE, &[]).expect("valid");
    let stream = &config.streams[0];
    assert_eq!((stream.record, stream.on_incomplete), (RecordMode::WhenNeeded, OnIncomplete::Later));
    assert_eq!((config.completion.parallel, config.completion.api_share), (4, 80));
    assert_eq!(config.completion.patience, Duration::from_secs(30));
    let always = [("CASEWIRE__STREAM__0__RECORD", "always"), ("CASEWIRE__STREAM__0__ON_INCOMPLETE", "wait")];
    assert_eq!(load(COMPLETE, &always).expect("valid").streams[0].on_incomplete, OnIncomplete::Wait);
    assert!(faults(COMPLETE, &always[1..])[0].contains("goes with record = \"always\" only"));
    assert!(faults(COMPLETE, &[("CASEWIRE__COMPLETION__API_SHARE", "0")])[0].contains("from 1 to 100"));
}

#[test]
fn a_policy_names_its_fields_once_and_hashes_with_a_long_key() {
    let policy =
        |lines: &str| format!("policy_key = \"{}\"\n{COMPLETE}[[policy]]\nentity = \"Case\"\n{lines}", "k".repeat(32));
    let text = policy(
        "drop = [\"Description\"]\nhash = [\"SuppliedEmail\"]\nmask = [\"BillingAddress.Street\"]\nkeep_last = 4",
    );
    let config = load(&text, &[]).expect("valid").policies;
    assert_eq!(
        (config.policies[0].hash.as_slice(), config.policies[0].keep_last),
        (["SuppliedEmail".to_owned()].as_slice(), 4)
    );
    assert_eq!(config.key.as_ref().map(|key| key.expose_secret().len()), Some(32));
    assert!(!format!("{config:?}").contains("kkkk") && !load(&text, &[]).expect("valid").printed().contains("kkkk"));
    let line_break = [("CASEWIRE__POLICY_KEY", format!("{}\n", "x".repeat(40)))];
    let line_break = line_break.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(load(&text, &line_break).expect("valid").policies.key.expect("set").expose_secret().len(), 40);
    for (lines, expected) in [
        ("", "policy[0].drop: is empty, and so are hash and mask"),
        ("drop = [\"A\"]\nmask = [\"A\"]", "policy[0].mask: names \"A\", which is named already"),
        ("drop = [\"Id\"]", "policy[0].drop: names \"Id\", which every record tells"),
        ("drop = [\"A\"]\nkeep_last = 9", "policy[0].keep_last: is 9"),
        ("drop = [\"A.B.C\"]", "policy[0].drop: is [\"A.B.C\"]"),
        ("drop = [\"A\"]\nblur = []", "policy[0].blur: is not a key"),
        (
            "drop = [\"A\"]\n[[policy]]\nentity = \"Case\"\ndrop = [\"B\"]",
            "policy[1].entity: is \"Case\", which another",
        ),
        ("drop = [\"A\"]\n[[policy]]\ndrop = [\"B\"]", "policy[1].entity: is missing"),
        (
            "drop = [\"A\"]\n[[policy]]\nentity = \"ConversationEntry\"\ndrop = [\"id\"]",
            "of messages a policy can name text",
        ),
    ] {
        let found = faults(&policy(lines), &[]);
        assert!(
            found.len() == 1 && found[0].starts_with(expected) || found[0].contains(expected),
            "{lines}: {found:?}"
        );
    }
    let keyless = policy("hash = [\"A\"]").replace("policy_key", "# policy_key");
    assert!(faults(&keyless, &[])[0].starts_with("policy_key_file: is missing"));
    let short = [("CASEWIRE__POLICY_KEY", "short")];
    assert!(faults(&policy("hash = [\"A\"]"), &short)[0].contains("has fewer than 32 bytes"));
}

#[test]
fn fields_are_chosen_in_one_of_two_ways() {
    let with = |line: &str| COMPLETE.replace("start =", &format!("{line}\n    start ="));
    let choice = |text: &str| load(text, &[]).expect("valid").streams[0].fields.clone();
    assert_eq!(choice(COMPLETE), FieldChoice::All);
    assert_eq!(choice(&with("fields = [\"Subject\"]")), FieldChoice::Only(vec!["Subject".into()]));
    assert_eq!(choice(&with("exclude_fields = [\"Pin__c\"]")), FieldChoice::Except(vec!["Pin__c".into()]));
    let variable = [("CASEWIRE__STREAM__0__FIELDS", "Subject, Status")];
    let config = load(COMPLETE, &variable).expect("valid");
    assert_eq!(config.streams[0].fields.names(), ["Subject", "Status"]);
    let both = with("fields = [\"A\"]\n    exclude_fields = [\"B\"]");
    assert!(faults(&both, &[])[0].contains("keep one of the two"));
    for wrong in ["\"Subject\"", "[7]", "[\"\"]", "[\"Owner.Name\"]"] {
        let found = faults(&with(&format!("fields = {wrong}")), &[]);
        assert!(found[0].contains("stream[0].fields: is ") && found[0].contains("API names of fields"), "{found:?}");
    }
}

#[test]
fn an_entity_belongs_to_one_stream() {
    let both = format!("{COMPLETE}\n[[stream]]\ntopic = \"/data/ChangeEvents\"\nstart = \"latest\"");
    assert!(faults(&both, &[])[0].contains("beside \"/data/CaseChangeEvent\""));
    let twice = format!("{COMPLETE}\n[[stream]]\ntopic = \"/data/CaseChangeEvent\"\nstart = \"latest\"");
    assert!(faults(&twice, &[])[0].contains("which another stream has"));
    let event = format!("{COMPLETE}\n[[stream]]\ntopic = \"/event/Order__e\"\nstart = \"latest\"");
    assert_eq!(load(&event, &[]).expect("an event is not an entity").streams.len(), 2);
}

#[test]
fn a_variable_overrides_the_file_whatever_the_type() {
    let variables = [
        ("CASEWIRE__BATCH__MAX_RECORDS", "7"),
        ("CASEWIRE__STREAM__0__TOMBSTONES", "true"),
        ("CASEWIRE__STREAM__1__TOPIC", "/event/Order__e"),
        ("CASEWIRE__STREAM__1__START", "latest"),
        ("CASEWIRE__KAFKA__PROPERTIES__COMPRESSION_TYPE", "zstd"),
    ];
    let config = load(COMPLETE, &variables).expect("valid");
    assert_eq!(config.batch.max_records, 7);
    assert!(config.streams[0].tombstones);
    assert_eq!(config.streams[1].topic.as_str(), "/event/Order__e");
    assert_eq!(config.kafka.properties["compression.type"], "zstd");
    assert!(config.printed().contains("max_records = 7  # from the environment"), "{}", config.printed());
    assert!(faults(COMPLETE, &[("CASEWIRE__KAFKA__BROKER", "x")])[0].contains("kafka.broker: is not a key"));
}

#[test]
fn secrets_come_inline_or_by_file_and_are_never_shown() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("password");
    std::fs::write(&path, "hunter2\n").expect("written");
    let path = path.display();
    let text = format!(
        "{COMPLETE}\n[kafka.properties]\n\"sasl.password_file\" = \"{path}\"\n\"ssl.key.password\" = \"swordfish\""
    );
    let config = load(&text, &[]).expect("valid");
    assert_eq!(config.kafka.properties["sasl.password"], "hunter2");
    let Grant::JwtBearer { private_key, .. } = &config.salesforce.grant else { panic!("JWT bearer") };
    assert_eq!(private_key.expose_secret(), "pem");
    let printed = config.printed();
    for secret in ["hunter2", "swordfish", "\"pem\""] {
        assert!(!printed.contains(secret), "{printed}");
    }
    printed.parse::<Table>().expect("what is printed is TOML");
    let both = COMPLETE.replace("private_key", "private_key_file = \"/k\"\nprivate_key");
    assert!(faults(&both, &[]).join("\n").contains("keep one of the two"));
}

#[test]
fn what_is_printed_means_the_same_when_it_is_read() {
    let properties = r#"[kafka.properties]
        "a b" = 1
        "" = true
        'q"\' = "x"
        "n\n\u007f" = "two\nlines""#;
    let mut text = format!("{COMPLETE}\n{properties}");
    for number in 0..12 {
        text.push_str(&format!("\n[[stream]]\ntopic = \"/event/E{number}__e\"\nstart = \"latest\""));
    }
    let variables = [("CASEWIRE__BATCH__MAX_RECORDS", "7"), ("CASEWIRE__STREAM__3__TOMBSTONES", "true")];
    let config = load(&text, &variables).expect("valid");
    let printed = config.printed();
    let again = load(&printed, &[]).unwrap_or_else(|error| panic!("{error}\n{printed}"));
    assert_eq!((again.batch.max_records, again.streams[3].tombstones), (7, true));
    assert_eq!(again.kafka.properties, config.kafka.properties);
    let topics = |config: &Config| config.streams.iter().map(|stream| stream.topic.clone()).collect::<Vec<_>>();
    assert_eq!(topics(&again), topics(&config), "{printed}");
}

#[test]
fn client_credentials_need_a_my_domain_host() {
    let text = COMPLETE.replace("private_key = \"pem\"", "client_secret = \"s\"");
    assert!(faults(&text, &[])[0].contains("My Domain"));
    let own = [("CASEWIRE__SALESFORCE__LOGIN_URL", "https://example.my.salesforce.com")];
    assert!(matches!(load(&text, &own).expect("valid").salesforce.grant, Grant::ClientCredentials { .. }));
}

#[test]
fn comparisons_are_off_unless_they_are_asked_for_and_full_ones_need_the_others() {
    let off = load(COMPLETE, &[]).expect("complete").reconcile;
    assert_eq!((off.every, off.full_every, off.repair, off.silence_check), (None, None, false, true));
    let full = [("CASEWIRE__RECONCILE__FULL_EVERY", "7days")];
    assert!(faults(COMPLETE, &full)[0].starts_with("reconcile.full_every: "), "{:?}", faults(COMPLETE, &full));
    let both = [full[0], ("CASEWIRE__RECONCILE__EVERY", "6h")];
    assert_eq!(load(COMPLETE, &both).expect("valid").reconcile.every, Some(Duration::from_secs(6 * 3600)));
}

#[test]
fn the_commented_example_is_valid_and_names_every_key() {
    let example = include_str!("../../config/casewire.toml");
    let variables = [("CASEWIRE__SALESFORCE__PRIVATE_KEY_FILE", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))];
    let config = load(example, &variables).expect("the example is valid");
    for effective in &config.effective {
        let key = effective.path.rsplit('.').next().unwrap_or_default();
        assert!(example.contains(&format!("{key} =")), "{} is not in the example", effective.path);
    }
}

#[test]
fn what_the_example_has_as_comments_is_valid_when_it_is_no_comment_any_more() {
    let example = include_str!("../../config/casewire.toml");
    let from = example.find("# [[stream]]").expect("the stream of emails");
    let to = from + example[from..].find("# What is kept from").expect("the next section");
    let is_key =
        |line: &str| line.starts_with("[[") || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    let uncommented = |line: &str| match line.strip_prefix("# ").filter(|rest| is_key(rest)) {
        Some(rest) if !rest.starts_with("exclude_fields") => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    let text: String = example[from..to].lines().map(uncommented).collect();
    let key = [("CASEWIRE__SALESFORCE__PRIVATE_KEY_FILE", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))];
    let config = load(&example.replace(&example[from..to], &text), &key).expect("valid");
    assert_eq!(config.streams.last().expect("streams").topic.as_str(), "/data/EmailMessageChangeEvent");
    let [poll] = &config.polls[..] else { panic!("one poll: {:?}", config.polls) };
    assert_eq!((poll.entity.as_str(), poll.every.as_secs(), poll.look_back.as_secs()), ("CaseComment", 60, 900));
    assert!(poll.since.is_some() && poll.fields.names().len() == 3);
    for effective in config.effective.iter().filter(|one| one.path.starts_with("poll[0]")) {
        let name = effective.path.rsplit('.').next().unwrap_or_default();
        assert!(text.contains(&format!("{name} = ")), "{} is not in the example", effective.path);
    }
}

#[test]
fn what_events_bring_is_not_polled_and_what_is_polled_has_a_stream_that_writes_it() {
    let poll = |entity: &str| format!("{COMPLETE}\n[[poll]]\nentity = \"{entity}\"\n");
    let config = load(&poll("CaseComment"), &[]).expect("valid");
    let cases = &config.streams[0].topic;
    assert_eq!(polls_of(&config.polls, &config.streams, cases), config.polls);
    assert_eq!((config.polls[0].since, &config.polls[0].fields), (None, &FieldChoice::All));
    for (text, problem) in [
        (poll("Case"), "whose changes the stream /data/CaseChangeEvent brings already"),
        (poll("CaseComment") + "[[poll]]\nentity = \"CaseComment\"", "which another [[poll]] has"),
        (poll("ConversationEntry"), "messages = true"),
        (
            poll("Conversation")
                .replace("/data/CaseChangeEvent\"", "/data/MessagingSessionChangeEvent\"\nmessages = true"),
            "messages = true",
        ),
        (poll("CaseCommentChangeEvent"), "the API name of an object"),
        (poll("Order__e"), "the API name of an object"),
        (poll("CaseComment").replace("/data/CaseChangeEvent", "/event/Order__e"), "no stream of change events"),
    ] {
        let found = faults(&text, &[]);
        let place =
            |fault: &String| fault.starts_with("poll[") && fault.contains(".entity: is ") && fault.contains(problem);
        assert!(found.len() == 1 && found.iter().all(place), "{found:?}");
    }
    let odd = poll("CaseComment") + "every = \"0s\"\nlook_back = \"1s\"\nsince = \"yesterday\"\nsurprise = 1";
    assert_eq!(faults(&odd, &[]).len(), 4);
}

#[test]
fn the_conversation_data_api_needs_an_app_of_its_own_and_an_encrypted_line() {
    let connect = load(COMPLETE, &[]).expect("valid");
    assert!(connect.messages.api == MessagesApi::Connect && connect.data_api.is_none());
    let data = ("CASEWIRE__MESSAGES__API", "data");
    let missing = faults(COMPLETE, &[data]);
    assert_eq!(missing.len(), 2, "{missing:?}");
    assert!(
        missing[0].contains("messages.data_api.client_id") && missing[1].contains("client_secret_file"),
        "{missing:?}"
    );
    let app = [
        data,
        ("CASEWIRE__MESSAGES__DATA_API__CLIENT_ID", "3MVG9"),
        ("CASEWIRE__MESSAGES__DATA_API__CLIENT_SECRET", "sesame"),
    ];
    let config = load(COMPLETE, &app).expect("valid").data_api.expect("an app");
    assert_eq!((config.url.as_str(), config.client_secret.expose_secret()), ("https://api.salesforce.com/", "sesame"));
    let open = [app[0], app[1], app[2], ("CASEWIRE__MESSAGES__DATA_API__URL", "http://api.example.com")];
    assert!(faults(COMPLETE, &open)[0].contains("unencrypted"));
}

#[test]
fn a_snapshot_is_of_the_objects_that_have_streams_and_of_those_that_are_named() {
    let objects = |text: &str, entities: &str| {
        let config = load(text, &[("CASEWIRE__SNAPSHOT__ENTITIES", entities)]).expect("valid");
        let objects = config.snapshot.objects(&config.streams);
        objects.into_iter().map(|(entity, topic)| format!("{entity} by {topic}")).collect::<Vec<_>>()
    };
    let cases = "Case by /data/CaseChangeEvent";
    assert_eq!(objects(COMPLETE, "User, Case"), [cases, "User by /data/CaseChangeEvent"]);
    let stream = |topic: &str| format!("[[stream]]\n    topic = \"{topic}\"\n    start = \"earliest\"\n    [kafka]");
    let with_channel = COMPLETE.replace("[kafka]", &stream("/data/Support__chn"));
    assert_eq!(objects(&with_channel, "User"), [cases, "User by /data/Support__chn"], "it may deliver its events");
    let only_events = COMPLETE.replace("/data/CaseChangeEvent", "/event/Order__e");
    assert!(objects(&only_events, "User").is_empty(), "nobody could write them");
    assert!(
        faults(COMPLETE, &[("CASEWIRE__SNAPSHOT__ENTITIES", "CaseChangeEvent")])[0].contains("API names of objects")
    );
    let admin = [
        ("CASEWIRE__ADMIN__TOKEN", "sesame"),
        ("CASEWIRE__ADMIN__LISTEN", "8686"),
        ("CASEWIRE__ADMIN__HOSTS", "a.example"),
    ];
    let config = load(COMPLETE, &admin).expect("valid");
    assert!(!config.printed().contains("sesame") && config.printed().contains("token = \"(secret)\""));
    assert_eq!(config.admin.listen, Some(([127, 0, 0, 1], 8686).into()), "a port alone is one of loopback");
    assert_eq!(config.admin.hosts, ["a.example"]);
    assert_eq!(config.admin.token.expect("a token").expose_secret(), "sesame");
    assert!(!config.snapshot.on_first_run);
}

#[test]
fn nothing_is_traced_without_a_collector_and_what_its_headers_hold_is_shown_nowhere() {
    let of = |lines: &str| format!("{COMPLETE}\n[telemetry]\n{lines}");
    assert!(load(COMPLETE, &[]).expect("valid").telemetry.is_none());
    assert!(load(&of("sample = 1"), &[]).expect("valid").telemetry.is_none(), "nor by its other keys");
    let local = of("otlp_endpoint = \"http://127.0.0.1:4317\"");
    let telemetry = load(&local, &[]).expect("valid").telemetry.expect("a collector");
    assert_eq!((telemetry.sample, telemetry.traceparent, telemetry.service_name.as_str()), (0.01, false, "casewire"));

    let variables = [
        ("CASEWIRE__TELEMETRY__HEADERS__X_API_KEY", "sesame"),
        ("CASEWIRE__TELEMETRY__HEADERS__AUTHORIZATION_FILE", concat!(env!("CARGO_MANIFEST_DIR"), "/rustfmt.toml")),
        ("CASEWIRE__TELEMETRY__SAMPLE", "0.25"),
    ];
    let inline = of("otlp_endpoint = \"https://c.example:4317\"\nheaders = { x-team = \"sesame too\" }");
    let config = load(&inline, &variables[..1]).expect("valid");
    assert!(!config.printed().contains("sesame") && config.printed().contains("x-api-key = \"(secret)\""));
    assert!(!format!("{config:?}").contains("sesame"));
    load(&config.printed(), &[]).expect("what is printed is valid");
    let telemetry = config.telemetry.expect("a collector");
    let headers: Vec<_> =
        telemetry.headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
    assert_eq!(headers, [("x-api-key", "sesame"), ("x-team", "sesame too")]);
    assert_eq!(load(&local, &variables[2..]).expect("valid").telemetry.expect("a collector").sample, 0.25);
    // A file of several lines is read, and is no header.
    let lines = faults(&local, &variables[1..2]);
    assert!(lines[0].starts_with("telemetry.headers.authorization: holds what no header can"), "{lines:?}");

    for (lines, problem) in [
        ("traceparent = true", "telemetry.otlp_endpoint: is missing, which traceparent = true needs"),
        ("otlp_endpoint = \"127.0.0.1:4317\"", "scheme, host and port"),
        ("otlp_endpoint = \"http://127.0.0.1:4318/v1/traces\"", "scheme, host and port"),
        ("otlp_endpoint = \"https://user:sesame@c.example\"", "scheme, host and port"),
        ("otlp_endpoint = \"http://c.example:4317\"\nheaders = { a = \"b\" }", "unencrypted: https:// is expected"),
        ("otlp_endpoint = \"https://c.example\"\nheaders = { Authorization = \"b\" }", "a name in small letters"),
        ("otlp_endpoint = \"https://c.example\"\nheaders = { grpc-timeout = \"1S\" }", "not a header that can be set"),
        ("sample = 1.5", "telemetry.sample: is 1.5, but a number from 0 to 1 is expected, such as 0.01"),
        ("sample = nan", "telemetry.sample: is nan, but"),
        ("sample = \"all\"", "telemetry.sample: is \"all\", but"),
        ("rate = 1", "telemetry.rate: is not a key"),
    ] {
        let found = faults(&of(lines), &[]);
        assert!(found.len() == 1 && found[0].contains(problem), "{lines}: {found:?}");
    }
}
