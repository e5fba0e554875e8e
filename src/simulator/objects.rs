//! The objects of the simulated org: their fields in the order of the event schema.
//!
//! Field sets and order of `Case`, `MessagingSession` and `MessagingEndUser` are those of
//! the API's own event types, that of `CaseComment`, which has none, is the Object Reference's; `Installation__c` and `Case_Escalation__e` are made up to
//! have every kind of field that the standard ones lack.

use std::borrow::Cow;

/// What a field is to Salesforce; decides its Avro type, its doc string and its rendering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    AutoNumber,
    LongText,
    RichText,
    Email,
    Url,
    Phone,
    /// An administrator can change the values.
    Picklist(&'static [&'static str]),
    /// The values are fixed by the platform.
    FixedPicklist(&'static [&'static str]),
    MultiPicklist(&'static [&'static str]),
    Checkbox,
    Integer,
    Number,
    Currency,
    Percent,
    DateTime,
    CreatedDate,
    Date,
    Time,
    /// A lookup to the object with this key prefix.
    Reference(&'static str),
    Address,
    Location,
}

/// The Avro side of a [`Kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Avro {
    String,
    Int,
    Long,
    Double,
    Boolean,
    /// A record of nullable components, by its name.
    Record(&'static str, &'static [Component]),
}

/// A component of a compound field.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Component {
    pub(crate) name: &'static str,
    pub(crate) number: bool,
}

const fn text(name: &'static str) -> Component {
    Component { name, number: false }
}

const fn number(name: &'static str) -> Component {
    Component { name, number: true }
}

/// The components of an org with state and country picklists.
const ADDRESS: &[Component] = &[
    text("Street"),
    text("City"),
    text("State"),
    text("PostalCode"),
    text("Country"),
    text("StateCode"),
    text("CountryCode"),
    number("Latitude"),
    number("Longitude"),
    text("GeocodeAccuracy"),
];
const LOCATION: &[Component] = &[number("Latitude"), number("Longitude")];

impl Kind {
    pub(crate) fn avro(self) -> Avro {
        match self {
            Self::Checkbox => Avro::Boolean,
            Self::Integer => Avro::Int,
            Self::Number | Self::Currency | Self::Percent => Avro::Double,
            Self::DateTime | Self::CreatedDate | Self::Date | Self::Time => Avro::Long,
            Self::Address => Avro::Record("Address", ADDRESS),
            Self::Location => Avro::Record("Location", LOCATION),
            _ => Avro::String,
        }
    }

    /// The `doc` of the field in the event schema.
    pub(crate) fn doc(self) -> &'static str {
        match self {
            Self::Text => "Data:Text",
            Self::AutoNumber => "Data:AutoNumber",
            Self::LongText => "Data:StringPlusClob",
            Self::RichText => "Data:HtmlStringPlusClob",
            Self::Email => "Data:Email",
            Self::Url => "Data:Url",
            Self::Phone => "Data:Phone",
            Self::Picklist(_) => "Data:DynamicEnum",
            Self::FixedPicklist(_) => "Data:StaticEnum",
            Self::MultiPicklist(_) => "Data:MultiEnum",
            Self::Checkbox => "Data:Boolean",
            Self::Integer => "Data:Integer",
            Self::Number => "Data:Double",
            Self::Currency => "Data:Currency",
            Self::Percent => "Data:Percent",
            Self::DateTime => "Data:DateTime",
            Self::CreatedDate => "CreatedDate:DateTime",
            Self::Date => "Data:DateOnly",
            Self::Time => "Data:TimeOnly",
            Self::Reference(_) => "ForeignKey:EntityId",
            Self::Address => "Data:Address",
            Self::Location => "Data:Location",
        }
    }
}

/// One field of an object.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: Cow<'static, str>,
    pub(crate) kind: Kind,
}

/// An object, or a platform event, with its fields in schema order.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    /// The API name: `Case`, `Installation__c`, `Case_Escalation__e`.
    pub(crate) name: &'static str,
    /// The first three characters of its record ids; empty for a platform event.
    pub(crate) prefix: &'static str,
    pub(crate) fields: Vec<Field>,
    /// Whether change events tell of it. Of comments none do.
    pub(crate) told: bool,
    /// The symbols of its `ChangeType`, in order.
    pub(crate) change_types: Vec<String>,
}

impl Object {
    pub(crate) fn is_platform_event(&self) -> bool {
        self.name.ends_with("__e")
    }

    /// The name of the Avro record of its events.
    pub(crate) fn event_name(&self) -> String {
        if self.is_platform_event() {
            return self.name.to_owned();
        }
        match self.name.strip_suffix("__c") {
            Some(custom) => format!("{custom}__ChangeEvent"),
            None => format!("{}ChangeEvent", self.name),
        }
    }

    /// The single-entity topic of its events.
    pub(crate) fn topic(&self) -> String {
        format!("/{}/{}", if self.is_platform_event() { "event" } else { "data" }, self.event_name())
    }

    /// Whether its records have a `SystemModstamp`.
    pub(crate) fn has_modstamp(&self) -> bool {
        !matches!(self.name, CONVERSATION | CONVERSATION_PARTICIPANT)
    }

    pub(crate) fn position(&self, field: &str) -> Option<usize> {
        self.fields.iter().position(|candidate| candidate.name == field)
    }
}

/// The change types of a schema of 2026, in Avro order.
pub(crate) const CHANGE_TYPES: [&str; 10] = [
    "CREATE",
    "UPDATE",
    "DELETE",
    "UNDELETE",
    "GAP_CREATE",
    "GAP_UPDATE",
    "GAP_DELETE",
    "GAP_UNDELETE",
    "GAP_OVERFLOW",
    "SNAPSHOT",
];

pub(crate) const USER: Kind = Kind::Reference("005");
const LANGUAGES: Kind = Kind::FixedPicklist(&["en_US", "de", "fr", "es", "ja"]);
const ENDED_BY: Kind = Kind::FixedPicklist(&["Agent", "Bot", "EndUser", "System"]);

/// Every object of the org as it is when the simulator starts.
pub(crate) fn all() -> Vec<Object> {
    vec![
        object("Case", "500", CASE),
        object("MessagingSession", "0Mw", MESSAGING_SESSION),
        object("MessagingEndUser", "0PA", MESSAGING_END_USER),
        object("Installation__c", "a0X", INSTALLATION),
        object("Case_Escalation__e", "", CASE_ESCALATION),
        Object { told: false, ..object("CaseComment", "00a", CASE_COMMENT) },
    ]
}

/// Objects that have records and neither events nor a `SystemModstamp`: what conversations leave behind. The fields are
/// those of the Object Reference; the key prefix of participants is made up.
pub(crate) fn without_events() -> Vec<Object> {
    vec![
        object(CONVERSATION, "0dw", CONVERSATION_FIELDS),
        object(CONVERSATION_PARTICIPANT, "0dx", CONVERSATION_PARTICIPANT_FIELDS),
    ]
}

/// The names of these objects.
pub(crate) const CONVERSATION: &str = "Conversation";
pub(crate) const CONVERSATION_PARTICIPANT: &str = "ConversationParticipant";

fn object(name: &'static str, prefix: &'static str, fields: &[(&'static str, Kind)]) -> Object {
    let fields = fields.iter().map(|(name, kind)| Field { name: Cow::Borrowed(*name), kind: *kind }).collect();
    Object { name, prefix, fields, told: true, change_types: CHANGE_TYPES.map(str::to_owned).to_vec() }
}

const CASE: &[(&str, Kind)] = &[
    ("CaseNumber", Kind::AutoNumber),
    ("ContactId", Kind::Reference("003")),
    ("AccountId", Kind::Reference("001")),
    ("AssetId", Kind::Reference("02i")),
    ("SourceId", Kind::Reference("02s")),
    ("BusinessHoursId", Kind::Reference("01m")),
    ("ParentId", Kind::Reference("500")),
    ("SuppliedName", Kind::Text),
    ("SuppliedEmail", Kind::Email),
    ("SuppliedPhone", Kind::Text),
    ("SuppliedCompany", Kind::Text),
    ("Type", Kind::Picklist(&["Mechanical", "Electrical", "Electronic", "Structural", "Other"])),
    ("Status", Kind::Picklist(&["New", "Working", "Escalated", "Waiting on Customer", "Closed"])),
    ("Reason", Kind::Picklist(&["Installation", "Equipment Complexity", "Performance", "Breakdown", "Feedback"])),
    ("Origin", Kind::Picklist(&["Phone", "Email", "Web", "Messaging"])),
    ("Language", LANGUAGES),
    ("Subject", Kind::Text),
    ("Priority", Kind::Picklist(&["High", "Medium", "Low"])),
    ("Description", Kind::LongText),
    ("IsClosed", Kind::Checkbox),
    ("ClosedDate", Kind::DateTime),
    ("IsEscalated", Kind::Checkbox),
    ("OwnerId", USER),
    ("IsClosedOnCreate", Kind::Checkbox),
    ("CreatedDate", Kind::CreatedDate),
    ("CreatedById", USER),
    ("LastModifiedDate", Kind::DateTime),
    ("LastModifiedById", USER),
];

const MESSAGING_SESSION: &[(&str, Kind)] = &[
    ("OwnerId", USER),
    ("Name", Kind::AutoNumber),
    ("CreatedDate", Kind::CreatedDate),
    ("CreatedById", USER),
    ("LastModifiedDate", Kind::DateTime),
    ("LastModifiedById", USER),
    ("MessagingChannelId", Kind::Reference("0Mj")),
    ("MessagingEndUserId", Kind::Reference("0PA")),
    ("Status", Kind::FixedPicklist(&["New", "Active", "Consent", "Waiting", "Paused", "Inactive", "Ended", "Error"])),
    ("StartTime", Kind::DateTime),
    ("AcceptTime", Kind::DateTime),
    ("EndTime", Kind::DateTime),
    ("CaseId", Kind::Reference("500")),
    ("LeadId", Kind::Reference("00Q")),
    ("OpportunityId", Kind::Reference("006")),
    ("Origin", Kind::FixedPicklist(&["AgentInitiated", "InboundInitiated", "TriggeredOutbound", "OptIn", "OptOut"])),
    ("AgentType", Kind::FixedPicklist(&["Agent", "Bot", "BotToAgent", "System"])),
    ("SessionKey", Kind::Text),
    ("TargetUserId", USER),
    ("ChannelType", Kind::FixedPicklist(&["EmbeddedMessaging", "WhatsApp", "Facebook", "Text", "AppleBusinessChat"])),
    ("ChannelKey", Kind::Text),
    ("ChannelName", Kind::Text),
    ("ChannelGroup", Kind::Text),
    ("ChannelIntent", Kind::Text),
    ("ChannelLocale", Kind::Text),
    ("ChannelEndUserFormula", Kind::Text),
    ("EndUserAccountId", Kind::Reference("001")),
    ("EndUserContactId", Kind::Reference("003")),
    ("EndUserLanguage", LANGUAGES),
    ("ConversationId", Kind::Reference("0dw")),
    ("PreviewDetails", Kind::Text),
    ("AgentMessageCount", Kind::Integer),
    ("EndUserMessageCount", Kind::Integer),
    ("EndedByType", ENDED_BY),
    ("SuspendedByType", ENDED_BY),
    ("CampaignId", Kind::Reference("701")),
];

const MESSAGING_END_USER: &[(&str, Kind)] = &[
    ("OwnerId", USER),
    ("Name", Kind::Text),
    ("CreatedDate", Kind::CreatedDate),
    ("CreatedById", USER),
    ("LastModifiedDate", Kind::DateTime),
    ("LastModifiedById", USER),
    ("MessagingChannelId", Kind::Reference("0Mj")),
    ("MessageType", Kind::FixedPicklist(&["EmbeddedMessaging", "WhatsApp", "Facebook", "Text", "Phone"])),
    ("MessagingPlatformKey", Kind::Text),
    ("MessagingExternalUserKey", Kind::Text),
    ("ContactId", Kind::Reference("003")),
    ("AccountId", Kind::Reference("001")),
    ("LeadId", Kind::Reference("00Q")),
    ("AuthenticatedEndUserId", Kind::Reference("001")),
    ("HasInitialResponseSent", Kind::Checkbox),
    ("IsFullyOptedIn", Kind::Checkbox),
    (
        "MessagingConsentStatus",
        Kind::FixedPicklist(&["DoublyOptedIn", "ExplicitlyOptedIn", "ImplicitlyOptedIn", "OptedOut"]),
    ),
    ("IsoCountryCode", Kind::Text),
    ("Language", LANGUAGES),
    ("Locale", Kind::Text),
    ("ProfilePictureUrl", Kind::Url),
];

const CONVERSATION_FIELDS: &[(&str, Kind)] = &[
    ("Name", Kind::Text),
    ("CreatedDate", Kind::CreatedDate),
    ("CreatedById", USER),
    ("LastModifiedDate", Kind::DateTime),
    ("LastModifiedById", USER),
    ("ConversationChannelId", Kind::Reference("0Mj")),
    ("ConversationIdentifier", Kind::Text),
    ("StartTime", Kind::DateTime),
    ("StartTimeMilliSecs", Kind::Number),
    ("EndTime", Kind::DateTime),
    ("EndTimeMilliSecs", Kind::Number),
];

const CONVERSATION_PARTICIPANT_FIELDS: &[(&str, Kind)] = &[
    ("Name", Kind::AutoNumber),
    ("CreatedDate", Kind::CreatedDate),
    ("CreatedById", USER),
    ("LastModifiedDate", Kind::DateTime),
    ("LastModifiedById", USER),
    ("AppType", Kind::Text),
    ("ConversationId", Kind::Reference("0dw")),
    ("JoinedTime", Kind::DateTime),
    ("JoinedTimeMilliSecs", Kind::Number),
    ("LeftTime", Kind::DateTime),
    ("LeftTimeMilliSecs", Kind::Number),
    ("LastActiveTime", Kind::DateTime),
    ("LastActiveTimeMilliSecs", Kind::Number),
    ("ParticipantContext", Kind::Text),
    ("ParticipantDisplayName", Kind::Text),
    ("ParticipantEntityId", Kind::Text),
    ("ParticipantKey", Kind::Text),
    ("ParticipantRole", Kind::Text),
];

const INSTALLATION: &[(&str, Kind)] = &[
    ("OwnerId", USER),
    ("Name", Kind::Text),
    ("CreatedDate", Kind::CreatedDate),
    ("CreatedById", USER),
    ("LastModifiedDate", Kind::DateTime),
    ("LastModifiedById", USER),
    ("Case__c", Kind::Reference("500")),
    ("Site_Address__c", Kind::Address),
    ("Billing_Address__c", Kind::Address),
    ("Site_Location__c", Kind::Location),
    ("Active__c", Kind::Checkbox),
    ("Devices__c", Kind::Number),
    ("Monthly_Fee__c", Kind::Currency),
    ("Discount__c", Kind::Percent),
    ("Commissioned_On__c", Kind::Date),
    ("Service_Window__c", Kind::Time),
    ("Next_Visit__c", Kind::DateTime),
    ("Features__c", Kind::MultiPicklist(&["Router", "Mesh", "Static IP", "Television", "Phone"])),
    ("Contact_Email__c", Kind::Email),
    ("Contact_Phone__c", Kind::Phone),
    ("Portal__c", Kind::Url),
    ("Notes__c", Kind::RichText),
];

const CASE_COMMENT: &[(&str, Kind)] = &[
    ("ParentId", Kind::Reference("500")),
    ("IsPublished", Kind::Checkbox),
    ("CommentBody", Kind::LongText),
    ("CommentBodyRichtext", Kind::RichText),
    ("CreatedDate", Kind::CreatedDate),
    ("CreatedById", USER),
    ("LastModifiedDate", Kind::DateTime),
    ("LastModifiedById", USER),
];

const CASE_ESCALATION: &[(&str, Kind)] = &[
    ("CreatedDate", Kind::CreatedDate),
    ("CreatedById", USER),
    ("Case_Id__c", Kind::Text),
    ("Priority__c", Kind::Text),
    ("Reason__c", Kind::LongText),
    ("Score__c", Kind::Number),
    ("Requires_Callback__c", Kind::Checkbox),
    ("Due__c", Kind::DateTime),
];
