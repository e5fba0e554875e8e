//! The names of a compound's components, and of the flat fields that repeat them.
//!
//! Events nest `Street` under `BillingAddress`; describe, REST and Bulk know `BillingStreet` beside it. Of a custom
//! compound `Home__c` the flat field is `Home__Street__s`, of a person's `Name` it is the component's own name.

/// The components of an address in the order of events.
pub(crate) const ADDRESS: [&str; 10] = [
    "Street",
    "City",
    "State",
    "PostalCode",
    "Country",
    "StateCode",
    "CountryCode",
    "Latitude",
    "Longitude",
    "GeocodeAccuracy",
];
/// The components of a geolocation in the order of events.
pub(crate) const LOCATION: [&str; 2] = ["Latitude", "Longitude"];
/// The components of a person's name in the order of events.
pub(crate) const NAME: [&str; 6] = ["Salutation", "FirstName", "LastName", "MiddleName", "InformalName", "Suffix"];

/// The component, as `(compound, component)`, that a field of this name repeats if the object has such a compound.
pub(crate) fn component_of(flat: &str) -> Option<(String, &'static str)> {
    if let Some(name) = NAME.into_iter().find(|name| *name == flat) {
        return Some(("Name".to_owned(), name));
    }
    if let Some(custom) = flat.strip_suffix("__s") {
        let (stem, part) = custom.rsplit_once("__")?;
        let part = ADDRESS.into_iter().find(|known| *known == part)?;
        return Some((format!("{stem}__c"), part));
    }
    let part = ADDRESS.into_iter().find(|part| flat.ends_with(part))?;
    Some((format!("{}Address", flat.strip_suffix(part)?), part))
}

/// The flat fields, with the component that each repeats, that there are if a field of this name is a compound.
pub(crate) fn flats_of(compound: &str) -> Vec<(&'static str, String)> {
    if compound == "Name" {
        return NAME.map(|name| (name, name.to_owned())).into();
    }
    if let Some(stem) = compound.strip_suffix("__c") {
        return ADDRESS.map(|part| (part, format!("{stem}__{part}__s"))).into();
    }
    let Some(stem) = compound.strip_suffix("Address") else { return Vec::new() };
    ADDRESS.map(|part| (part, format!("{stem}{part}"))).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_field_leads_to_its_component_and_back() {
        for (flat, compound, part) in [
            ("BillingStreet", "BillingAddress", "Street"),
            ("BillingStateCode", "BillingAddress", "StateCode"),
            ("Street", "Address", "Street"),
            ("PersonMailingPostalCode", "PersonMailingAddress", "PostalCode"),
            ("Site__Latitude__s", "Site__c", "Latitude"),
            ("Home__Address__Street__s", "Home__Address__c", "Street"),
            ("LastName", "Name", "LastName"),
        ] {
            assert_eq!(component_of(flat), Some((compound.to_owned(), part)));
            assert!(flats_of(compound).contains(&(part, flat.to_owned())), "{flat}");
        }
        for plain in ["Description", "Home__c", "Status", "Site__Colour__s", "__s"] {
            assert_eq!(component_of(plain), None, "{plain}");
        }
        assert!(flats_of("Subject").is_empty());
    }
}
