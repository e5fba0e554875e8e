//! How Salesforce sends a change in a long text: as a diff instead of the value, when
//! that is the shorter way to say it.

use sha2::{Digest, Sha256};

/// Below this length (characters) the whole value is sent.
const LEAST_LENGTH: usize = 1_000;

/// The diff from one text to another whose lines were replaced one by one, or `None`
/// where Salesforce would send the whole value: a short text, a length that differs by
/// more than half, more than a quarter of the lines changed, or a diff longer than the value.
///
/// The hash is over the whole new value with its own line breaks; the diff itself
/// always uses `\n` and has no context lines and no final line break.
pub(crate) fn between(old: &str, new: &str) -> Option<String> {
    let (before, after): (Vec<&str>, Vec<&str>) = (lines(old), lines(new));
    if new.chars().count() < LEAST_LENGTH
        || before.len() != after.len()
        || old.len().abs_diff(new.len()) * 2 > old.len()
    {
        return None;
    }
    let hash: String = Sha256::digest(new.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut diff = format!("--- \n+++ {hash}");
    let mut changed = 0;
    for (at, (was, is)) in before.iter().zip(&after).enumerate().filter(|(_, (was, is))| was != is) {
        changed += 1;
        let line = at + 1;
        diff.push_str(&format!("\n@@ -{line},1 +{line},1 @@\n-{was}\n+{is}"));
    }
    let few = changed > 0 && changed * 4 <= before.len() + after.len();
    (few && diff.len() < new.len()).then_some(diff)
}

fn lines(text: &str) -> Vec<&str> {
    text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_change_in_a_long_text_is_a_diff_and_anything_else_the_value() {
        let old = (0..30).map(|line| format!("{line}: the router blinks red and nobody knows why")).collect::<Vec<_>>();
        let mut new = old.clone();
        new[3] = "3: the router is new".to_owned();
        let (old, new) = (old.join("\r\n"), new.join("\r\n"));
        let diff = between(&old, &new).expect("a diff");
        assert!(
            diff.starts_with("--- \n+++ ")
                && diff.ends_with(
                    "@@ -4,1 +4,1 @@\n-3: the router blinks red and nobody knows why\n+3: the router is new"
                )
        );
        let hash: String = Sha256::digest(new.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(diff.lines().nth(1), Some(format!("+++ {hash}").as_str()));
        assert_eq!(between("short", "shorter"), None);
        assert_eq!(between(&old, &old.replace("router", "modem")), None, "every line changed");
    }
}
