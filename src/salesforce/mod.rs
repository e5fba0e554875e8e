//! Everything that speaks to Salesforce.
