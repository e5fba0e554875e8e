//! A Salesforce org in a box.
