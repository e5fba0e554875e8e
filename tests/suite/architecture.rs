//! Holds the table of rooms: which part of the crate may know which other.
//!
//! The sources are read as text. What counts is every `crate::…` path outside comments and tests,
//! whether in a `use`, in a group or in the middle of an expression.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A room and the rooms it may use, as the table of CONTRIBUTING.md has them. The simulator shares nothing with the client
/// but the wire contract, so that a mistake of the one is not a mistake of the other.
const ROOMS: &[(&str, &[&str])] = &[
    ("identity", &[]),
    ("failure", &[]),
    ("proto", &[]),
    ("position", &["identity"]),
    ("config", &["identity", "failure"]),
    ("change", &["identity", "failure"]),
    ("status", &["config", "identity", "position", "failure"]),
    ("salesforce", &["config", "change", "identity", "position", "failure", "proto"]),
    ("kafka", &["config", "identity", "position", "failure"]),
    ("telemetry", &["config", "salesforce", "status", "identity", "position", "failure"]),
    (
        "pipeline",
        &["config", "change", "salesforce", "kafka", "status", "telemetry", "identity", "position", "failure"],
    ),
    (
        "doctor",
        &[
            "config",
            "change",
            "salesforce",
            "kafka",
            "status",
            "telemetry",
            "pipeline",
            "identity",
            "position",
            "failure",
        ],
    ),
    ("admin", &["config", "status", "identity", "position", "failure"]),
    ("simulator", &["proto"]),
];
/// The rooms that put the others together. `lib` only names them.
const TOP: &[&str] = &["cli", "main", "lib"];
/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "type", "types", "helper", "helpers", "misc"];
/// The most lines that a file may have, its tests not counted.
const MOST_LINES: usize = 500;

/// What may stand in a few files only, and why.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    ("danger", &["salesforce/reachability.rs"], "certificates are verified, but where doctor looks at who issued one"),
    ("FieldPolicies::default", &[], "whoever renders values is given the policies of the configuration"),
    ("FieldPolicies::new", &["pipeline/settings.rs"], "policies are made of the configuration in one place"),
    ("ObjectWriter::new(None", &["change/decode.rs"], "fields are written with the policy of their object"),
    ("Exit::", FAILURES, "what a failure says stands in a table, of which docs/troubleshooting.md is made"),
    (
        "KafkaError::Topic {",
        &["kafka/writer.rs"],
        "what is wrong with a topic stands in kafka/error.rs and kafka/topic_findings.rs",
    ),
    ("remedy = \"", REMEDIES, "what mends something stands in a table, of which docs/troubleshooting.md is made"),
    ("Failure::new(", FAILURES, "what a failure says stands in a table, of which docs/troubleshooting.md is made"),
];

/// Where a remedy is written beside what it mends: the warnings of `doctor`, and what happened.
const REMEDIES: &[&str] = &[
    "config/load.rs",
    "doctor/allowances.rs",
    "doctor/files.rs",
    "doctor/network.rs",
    "doctor/organization.rs",
    "kafka/topic_findings.rs",
    "status/journal.rs",
];

/// The tables of failures: what fails, how the process ends, and what mends it. Whoever writes one elsewhere would write one
/// that no page has.
const FAILURES: &[&str] = &[
    "admin/denial.rs",
    "change/error.rs",
    "cli/error.rs",
    "cli/service_error.rs",
    "config/load.rs",
    "doctor/fault.rs",
    "failure.rs",
    "kafka/error.rs",
    "pipeline/jobs/setback.rs",
    "pipeline/messages/setback.rs",
    "pipeline/policy_check.rs",
    "pipeline/reconcile/unable.rs",
    "pipeline/stop.rs",
    "salesforce/bulk.rs",
    "salesforce/call_fault.rs",
    "salesforce/pubsub.rs",
    "salesforce/reachability.rs",
    "salesforce/rest_error.rs",
    "salesforce/session_error.rs",
    "salesforce/verdict.rs",
    "status/requests.rs",
    "telemetry/collector.rs",
    // These two only hand on what they are given.
    "doctor/finding.rs",
    "main.rs",
];

/// Everything in the tree below `src` that the table does not allow, one sentence each.
fn violations(src: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for path in rust_files(src) {
        let name = path.strip_prefix(src).expect("listed below src").to_owned();
        let shown = name.display();
        if is_declared_as_test(src, &name) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{shown}: {error}"));
        let code = without_tests(&text);
        let room = room_of(&name);
        for part in name.iter().map(|part| part.to_string_lossy()) {
            if EMPTY_NAMES.contains(&part.trim_end_matches(".rs")) {
                found.push(format!("{shown}: `{part}` says nothing about what is inside"));
            }
        }
        let lines = code.lines().count();
        if lines > MOST_LINES {
            found.push(format!("{shown}: {lines} lines without its tests; at most {MOST_LINES}"));
        }
        let plain = without_comments(code);
        let misplaced = ONLY_IN
            .iter()
            .filter(|(text, files, _)| plain.contains(text) && !files.iter().any(|file| name == Path::new(file)));
        found.extend(misplaced.map(|(text, _, why)| format!("{shown}: `{text}`: {why}")));
        if TOP.contains(&room.as_str()) {
            continue;
        }
        let Some((_, allowed)) = ROOMS.iter().find(|(known, _)| *known == room) else {
            found.push(format!("{shown}: the room `{room}` is not in the table"));
            continue;
        };
        let used = rooms_used(&plain);
        found.extend(
            used.iter()
                .filter(|used| **used != room && !allowed.contains(&used.as_str()))
                .map(|used| format!("{shown}: `{room}` may not use `{used}`")),
        );
    }
    found
}

/// Which rooms each room uses, for a look at cycles.
fn uses(src: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in rust_files(src) {
        let name = path.strip_prefix(src).expect("listed below src");
        if is_declared_as_test(src, name) {
            continue;
        }
        let room = room_of(name);
        let text = fs::read_to_string(&path).expect("a source file is UTF-8");
        graph.entry(room).or_default().extend(rooms_used(&without_comments(without_tests(&text))));
    }
    for (room, used) in &mut graph {
        used.remove(room);
    }
    graph
}

/// A room from which a path leads back to it, if there is one.
fn cycle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<String> {
    graph
        .keys()
        .find(|start| {
            let mut seen = BTreeSet::new();
            let mut open: Vec<&String> = graph[*start].iter().collect();
            while let Some(room) = open.pop() {
                if room == *start {
                    return true;
                }
                if seen.insert(room) {
                    open.extend(graph.get(room).into_iter().flatten());
                }
            }
            false
        })
        .cloned()
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for path in entries.map(|entry| entry.expect("a readable entry").path()) {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// `kafka/producer.rs` and `kafka.rs` are both in the room `kafka`.
fn room_of(name: &Path) -> String {
    let first = name.iter().next().map(|first| first.to_string_lossy().into_owned()).unwrap_or_default();
    first.trim_end_matches(".rs").to_owned()
}

/// Whether the file, or a module that it lies in, is declared as `#[cfg(test)] mod …;`.
fn is_declared_as_test(src: &Path, name: &Path) -> bool {
    let mut directory = src.to_owned();
    for part in name {
        let module = part.to_string_lossy();
        let declaration = format!("#[cfg(test)]\nmod {};", module.trim_end_matches(".rs"));
        let parents = [directory.join("mod.rs"), directory.join("lib.rs"), directory.with_extension("rs")];
        if parents.iter().filter_map(|parent| fs::read_to_string(parent).ok()).any(|text| text.contains(&declaration)) {
            return true;
        }
        directory.push(part);
    }
    false
}

/// The text up to the unit tests, which by the house's custom end a file.
fn without_tests(text: &str) -> &str {
    let opens = |at: usize| text[at..].lines().nth(2).is_some_and(|line| line.ends_with('{'));
    let begins = text.match_indices("\n#[cfg(test)]\nmod ").map(|(at, _)| at).find(|at| opens(*at));
    begins.map_or(text, |at| &text[..at + 1])
}

/// The text without line comments; documentation may name whatever it likes.
fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect()
}

/// The first segment behind every `crate::`, and behind a `super::` that names a room.
fn rooms_used(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        match rest.strip_prefix('{') {
            Some(group) => used.extend(first_segments(group)),
            None => used.extend(identifier(rest)),
        }
    }
    for (at, found) in code.match_indices("super::") {
        let reached = identifier(&code[at + found.len()..]);
        used.extend(reached.filter(|name| ROOMS.iter().any(|(room, _)| room == name)));
    }
    used
}

/// The names at the top level of a use group, whose opening brace has been read.
fn first_segments(group: &str) -> Vec<String> {
    let mut depth = 0_usize;
    let mut names = Vec::new();
    let mut begins = true;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if begins && !character.is_whitespace() => {
                names.extend(identifier(&group[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    names
}

/// The name at the beginning of the text. A capital one is an item of the crate's root, not a room.
fn identifier(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect();
    name.starts_with(|first: char| first.is_lowercase()).then_some(name)
}

#[test]
fn every_room_uses_only_the_rooms_it_may() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let found = violations(&src);
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert_eq!(cycle(&uses(&src)), None, "rooms use each other in a circle");
    let rooms: BTreeSet<String> = uses(&src).into_keys().collect();
    let missing: Vec<_> = ROOMS.iter().filter(|(room, _)| !rooms.contains(*room)).collect();
    assert!(missing.is_empty(), "the table has rooms that do not exist: {missing:?}");
}

/// The types of a file that have a `failure`.
fn failing(code: &str) -> Vec<String> {
    let mut types = Vec::new();
    for (at, _) in code.match_indices("fn failure(") {
        let before = code[..at].rfind("\nimpl ").map(|at| &code[at + "\nimpl ".len()..]);
        let name = before.and_then(|rest| rest.split(|letter: char| !letter.is_alphanumeric()).next());
        types.extend(name.filter(|name| !name.is_empty()).map(str::to_owned));
    }
    // `with_failure!` gives one to each of its names.
    let listed = code.split_once("with_failure!(\n").and_then(|(_, rest)| rest.split_once(");"));
    types.extend(listed.into_iter().flat_map(|(names, _)| names.split(',')).map(|name| name.trim().to_owned()));
    types.retain(|name| !name.is_empty());
    types
}

#[test]
fn every_table_of_failures_is_in_the_page_of_errors() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |name: &str| fs::read_to_string(src.join(name)).expect("a source file");
    let page = read("documents.rs") + &read("documents/commands.rs");
    let mut missing = Vec::new();
    for file in FAILURES {
        let text = read(file);
        let code = without_comments(without_tests(&text));
        // A room that keeps its enum to itself gives the page samples instead.
        let samples = text.contains("pub(crate) fn one_of_each()");
        let sampled = |name: &str| [format!("{name}::"), format!("{name} {{")].iter().any(|used| page.contains(used));
        let types = failing(&code).into_iter().filter(|name| !samples && !sampled(name));
        missing.extend(types.map(|name| format!("{file}: {name}")));
    }
    assert_eq!(missing, Vec::<String>::new(), "docs/troubleshooting.md does not have them");
    let one = "\nimpl Loud {\n    pub fn failure(&self) -> Failure {\n";
    assert_eq!(failing(&format!("with_failure!(\n    A,\n    B,\n);\n{one}")), ["Loud", "A", "B"]);
}

#[test]
fn the_table_itself_has_no_circle() {
    let table =
        ROOMS.iter().map(|(room, may)| ((*room).to_owned(), may.iter().map(|used| (*used).to_owned()).collect()));
    assert_eq!(cycle(&table.collect()), None);
}

/// A tree of the given files, in a directory that goes when the guard does.
fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("below the directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
    directory
}

#[test]
fn what_the_table_forbids_is_found_wherever_it_stands() {
    let long = "fn line() {}\n".repeat(MOST_LINES + 1);
    let cases: &[(&str, &str, &str)] = &[
        ("simulator/mod.rs", "use crate::change::Header;\n", "`simulator` may not use `change`"),
        ("simulator/mod.rs", "use crate::{proto, failure::Failure};\n", "`simulator` may not use `failure`"),
        ("kafka/producer.rs", "fn a() {\n    crate::salesforce::open();\n}\n", "`kafka` may not use `salesforce`"),
        ("kafka/mod.rs", "use crate::{\n    identity::{A, B},\n    change,\n};\n", "`kafka` may not use `change`"),
        ("change/mod.rs", "use super::salesforce::Session;\n", "`change` may not use `salesforce`"),
        ("status.rs", "use crate::cli::run;\n", "`status` may not use `cli`"),
        ("kafka/mod.rs", "#[cfg(test)]\nmod tests;\nuse crate::change;\n", "`kafka` may not use `change`"),
        ("attic/mod.rs", "", "the room `attic` is not in the table"),
        ("kafka/helpers.rs", "", "`helpers.rs` says nothing"),
        ("common/mod.rs", "", "`common` says nothing"),
        ("kafka/mod.rs", &long, "501 lines"),
        ("salesforce/tls.rs", "let client = builder.danger_accept_invalid_certs(true);\n", "certificates are verified"),
        ("cli/tail.rs", "let none = FieldPolicies::default();\n", "given the policies of the configuration"),
        ("change/row.rs", "let writer = ObjectWriter::new(None, 9);\n", "with the policy of their object"),
        ("cli/tail.rs", "return Err(Failure::new(exit, \"no\", \"try again\"));\n", "stands in a table"),
        ("pipeline/stream.rs", "let remedy = \"begin again\";\n", "stands in a table"),
        ("doctor/files.rs", "Outcome::Failed(Failure { exit: Exit::Usage, what, remedy })\n", "stands in a table"),
    ];
    for (name, text, expected) in cases {
        let found = violations(tree(&[(name, text)]).path());
        assert!(found.iter().any(|found| found.contains(expected)), "{name}: {text}: {found:?}");
    }
}

#[test]
fn what_the_table_allows_is_left_alone() {
    let long_tests = format!("\n#[cfg(test)]\nmod tests {{\n{}}}\n", "use crate::change;\n".repeat(MOST_LINES));
    let allowed = tree(&[
        (
            "kafka/mod.rs",
            "//! Like [`crate::salesforce`].\nuse crate::kafka::inner;\nuse crate::{config::Kafka, identity};\n",
        ),
        ("simulator/mod.rs", &long_tests),
        ("salesforce/mod.rs", "#[cfg(test)]\nmod against_simulator;\n#[cfg(test)]\nmod tests;\nuse crate::proto;\n"),
        ("salesforce/against_simulator.rs", "use crate::simulator;\n"),
        ("salesforce/tests/faults.rs", "use crate::simulator;\n"),
        ("cli/run.rs", "use crate::{pipeline, simulator};\n"),
        ("main.rs", "use casewire::cli;\n"),
    ]);
    assert_eq!(violations(allowed.path()), Vec::<String>::new());
}

#[test]
fn a_circle_is_found_across_several_rooms() {
    let circle =
        tree(&[("a.rs", "use crate::b;\n"), ("b.rs", "use crate::c::x;\n"), ("c/mod.rs", "use crate::{a};\n")]);
    assert!(cycle(&uses(circle.path())).is_some());
    let line = tree(&[("a.rs", "use crate::b;\n"), ("b.rs", "use crate::c::x;\n"), ("c/mod.rs", "use crate::c::y;\n")]);
    assert_eq!(cycle(&uses(line.path())), None);
}
