//! `docs/logs.md` names every field of the log, and none that no line has. The sources are read as text.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The macros of `tracing` that write a line.
const MACROS: [&str; 5] = ["error!(", "warn!(", "info!(", "debug!(", "trace!("];

/// The names of the fields that the lines of a source have.
fn fields(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for name in MACROS {
        for (at, _) in source.match_indices(name) {
            // `log::error!` would end in the same letters as `my_error!`.
            if source[..at].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_') {
                continue;
            }
            // What stands behind the text are its arguments.
            let arguments = arguments(&source[at + name.len()..]);
            found.extend(arguments.iter().take_while(|one| !one.starts_with('"')).filter_map(|one| field(one)));
        }
    }
    found
}

/// The arguments of a macro whose opening parenthesis has been read.
fn arguments(text: &str) -> Vec<String> {
    let (mut arguments, mut depth, mut quoted, mut escaped) = (vec![String::new()], 0_usize, false, false);
    for letter in text.chars() {
        match letter {
            _ if quoted => {
                quoted = letter != '"' || escaped;
                escaped = letter == '\\' && !escaped;
            }
            '"' => quoted = true,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        arguments.last_mut().expect("there is always one").push(letter);
    }
    arguments.iter().map(|argument| argument.trim().to_owned()).filter(|argument| !argument.is_empty()).collect()
}

/// The name of a field: `%error`, `error = %error`, `topic`. `target: "…"` is none.
fn field(argument: &str) -> Option<String> {
    let bare = argument.trim_start_matches(['%', '?']);
    let end = bare.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(bare.len());
    let (name, rest) = bare.split_at(end);
    (!rest.trim_start().starts_with(':')).then(|| name.to_owned())
}

fn sources(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.extend(fields(&fs::read_to_string(&path).expect("a source file is UTF-8")));
        }
    }
}

/// The names in the first column of the table.
fn documented(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" | "));
    rows.flat_map(|(names, _)| names.split(", ").map(|name| name.trim_matches('`').to_owned())).collect()
}

#[test]
fn every_field_of_the_log_is_documented_and_none_besides() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeSet::new();
    sources(&root.join("src"), &mut found);
    assert!(found.len() > 50, "the sources have {} fields only", found.len());
    let page = documented(&fs::read_to_string(root.join("docs/logs.md")).expect("the page"));
    let missing: Vec<_> = found.difference(&page).collect();
    assert!(missing.is_empty(), "docs/logs.md does not name {missing:?}");
    let surplus: Vec<_> = page.difference(&found).collect();
    assert!(surplus.is_empty(), "docs/logs.md names {surplus:?}, which no line has");
}

#[test]
fn a_field_is_found_in_whichever_form_it_is_written() {
    let source = "warn!(topic = %self.context.topic, error = f(a, \"b, \\\"c\"), %replay_id, ?cause, rows, wait_s = w.as_secs(), \"job waits, {x}\", x = 3);\n\
                  tracing::debug!(target: \"librdkafka\", facility, \"{message}\");\nmy_error!(surprise);\ninfo!(\"nothing\")";
    let found = fields(source);
    let wanted = ["cause", "error", "facility", "replay_id", "rows", "topic", "wait_s"];
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
    let page = "| field | is |\n|---|---|\n| `wait`, `wait_s` | until |\n";
    assert_eq!(documented(page), BTreeSet::from(["wait".to_owned(), "wait_s".to_owned()]));
}
