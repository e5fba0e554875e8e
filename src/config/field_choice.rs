//! Which fields the records have that are read over REST.

use crate::config::reader::{Findings, Section};

/// Which of the fields that the user may read are read into full records. Events are not concerned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum FieldChoice {
    /// All of them.
    #[default]
    All,
    /// These only.
    Only(Vec<String>),
    /// All but these.
    Except(Vec<String>),
}

impl FieldChoice {
    /// The fields that it names.
    pub fn names(&self) -> &[String] {
        match self {
            Self::All => &[],
            Self::Only(names) | Self::Except(names) => names,
        }
    }

    /// Reads `fields` and `exclude_fields`, of which one at most may be there.
    pub(in crate::config) fn read(section: &mut Section, findings: &mut Findings) -> Self {
        let api_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let expected = "API names of fields, such as [\"Subject\", \"BillingAddress\"]";
        let only = section.texts("fields", api_name, expected, findings);
        let except = section.texts("exclude_fields", api_name, expected, findings);
        match (only.is_empty(), except.is_empty()) {
            (true, true) => Self::All,
            (false, true) => Self::Only(only),
            (true, false) => Self::Except(except),
            (false, false) => {
                findings.fault(section.path_of("exclude_fields"), "is set, and so is fields: keep one of the two");
                Self::All
            }
        }
    }
}
