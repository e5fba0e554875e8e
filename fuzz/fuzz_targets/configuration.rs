//! A configuration file, and after a line `%` the variables that override it, one `NAME=value` a line.
//!
//! It is accepted or refused with the list of its faults. Either way no secret is shown, and what `config print` shows of an
//! accepted one is a file that means the same.

#![no_main]

use casewire::config::{Config, ConfigError, Environment};
use libfuzzer_sys::fuzz_target;
use toml::Table;

/// Set by a variable, so that nothing else has a reason to show it.
const SECRET: &str = "sEcReT-0f-thE-t3St";

fuzz_target!(|data: &str| {
    // A path can name a device that never ends, or that does something.
    if data.contains(SECRET) || data.contains("/dev") || data.contains("/proc") {
        return;
    }
    let (file, variables) = data.split_once("\n%\n").unwrap_or((data, ""));
    let Ok(table) = file.parse::<Table>() else { return };
    let mut environment: Environment = variables
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (format!("CASEWIRE__{name}"), value.to_owned()))
        .collect();
    if !data.contains("client_secret") && !data.contains("CLIENT_SECRET") {
        environment.insert("CASEWIRE__SALESFORCE__PRIVATE_KEY".to_owned(), SECRET.to_owned());
    }
    match Config::from_table(table, &environment) {
        Ok(config) => {
            assert!(!format!("{config:?}").contains(SECRET), "a secret in the debug form");
            printed_means_the_same(&config);
        }
        Err(error) => {
            let text = error.to_string();
            let ConfigError::Faults(faults) = error else { panic!("{text}") };
            assert!(!faults.is_empty(), "refused without a reason");
            assert!(!text.contains(SECRET), "{text}");
            assert!(faults.iter().all(|fault| !fault.path.is_empty() && !fault.problem.is_empty()), "{text}");
        }
    }
});

fn printed_means_the_same(config: &Config) {
    let printed = config.printed();
    assert!(!printed.contains(SECRET), "{printed}");
    let table = printed.parse::<Table>().unwrap_or_else(|error| panic!("not TOML: {error}\n{printed}"));
    let again = Config::from_table(table, &Environment::new()).unwrap_or_else(|error| panic!("{error}\n{printed}"));
    assert_eq!(values(&again.printed()), values(&printed));
    assert_eq!(again.streams.len(), config.streams.len());
    for (stream, other) in config.streams.iter().zip(&again.streams) {
        assert_eq!((&stream.topic, stream.start), (&other.topic, other.start), "{printed}");
    }
    assert_eq!(again.batch.max_bytes, config.batch.max_bytes);
    assert_eq!(again.kafka.properties.keys().collect::<Vec<_>>(), config.kafka.properties.keys().collect::<Vec<_>>());
}

/// Without the comments that tell who set a value.
fn values(printed: &str) -> Table {
    printed.parse().expect("what is printed is TOML")
}
