"""What is published, and when: seeded random traffic, with the rare forms ordered one by one in between."""

ADDRESS, BILLING, LOCATION = "Site_Address__c", "Billing_Address__c", "Site_Location__c"
LONG = "\n".join(f"{line}: the router blinks, says Yılmaz; \t\u2028 “quoted” \\ 佐藤 🛰" for line in range(60))
FULL_ADDRESS = {
    "Street": "4-2-8 Shibakoen\nBuilding “B”", "City": "東京", "State": None, "PostalCode": "105-0011", "Country": "Japan",
    "StateCode": None, "CountryCode": "JP", "Latitude": -35.6586, "Longitude": 139.7454, "GeocodeAccuracy": "Address",
}  # fmt: skip
FORMS = {
    "Devices__c": -3, "Monthly_Fee__c": 1e15, "Discount__c": 0.1, "Commissioned_On__c": "1969-12-31", "Service_Window__c": "23:59:59.999Z",
    "Next_Visit__c": "1901-01-01T00:00:00.001Z", "Features__c": ["Router", "Static IP"], "Notes__c": "<p>&amp; 🛰</p>", "Active__c": False,
}  # fmt: skip
CLEARED = {name: None for name in FORMS if name != "Active__c"}


def change(entity, change_type, fields=None, ids=(), same_transaction=False):
    return {"entity": entity, "change_type": change_type, "fields": fields or {}, "record_ids": list(ids), "same_transaction": same_transaction}


def ordered(round_number):
    """Forms that random traffic has seldom or never."""
    at = "a0X8d00000000ZZ"
    ids = [f"{at[:-2]}{a}{b}AAA" for a in "XY" for b in "abcdefgh"][: 4 + round_number]
    one = ids[:1]
    yield change("Installation__c", "CREATE", {**FORMS, ADDRESS: FULL_ADDRESS, BILLING: FULL_ADDRESS}, one)
    yield change("Installation__c", "UPDATE", FORMS, one)
    yield change("Installation__c", "UPDATE", CLEARED, one)
    # Components: one cleared alone, several of two compounds, all of one, and beside fields of the record itself.
    yield change("Installation__c", "UPDATE", {ADDRESS: {"City": None}}, one)
    yield change("Installation__c", "UPDATE", {ADDRESS: {"Street": "1 Market St", "State": None}, BILLING: {"City": None, "Latitude": 0.0}}, one)
    yield change("Installation__c", "UPDATE", {ADDRESS: FULL_ADDRESS, LOCATION: {"Latitude": 90, "Longitude": -180}}, one)
    yield change("Installation__c", "UPDATE", {LOCATION: {"Latitude": None, "Longitude": None}, "Name": "Tōkyō"}, one)
    yield change("Installation__c", "UPDATE", {ADDRESS: {"GeocodeAccuracy": None}, "Devices__c": None}, one)
    yield change("Installation__c", "UPDATE", {ADDRESS: None, BILLING: None}, one)
    yield change("Installation__c", "UPDATE", {BILLING: {"City": "Graz"}, "Active__c": True, "Discount__c": None}, ids)
    yield change("Installation__c", "UPDATE", {"Name": "in the same transaction"}, one, same_transaction=True)
    yield change("Installation__c", "DELETE", ids=ids)
    yield change("Installation__c", "UNDELETE", ids=one)
    yield change("Case", "CREATE", {"Subject": LONG[:255], "Description": LONG, "IsClosed": False, "ClosedDate": None})
    yield change("Case", "UPDATE", {"Description": LONG, "Subject": None, "ContactId": None})
    yield change("Case", "UPDATE", {"Description": None, "IsEscalated": True})
    yield change("MessagingSession", "UPDATE", {"AgentMessageCount": 2147483647, "EndUserMessageCount": -2147483648, "PreviewDetails": "\x01\t\r\n"})
    for kind in ("GAP_CREATE", "GAP_UPDATE", "GAP_DELETE", "GAP_UNDELETE", "SNAPSHOT"):
        yield change("Case", kind)
    yield change("Case", "GAP_OVERFLOW", ids=["000000000000000AAA"])
    yield change("MessagingEndUser", "GAP_UPDATE", ids=["0PA*"])
    # Larger than an event can be: the service tells a gap instead.
    yield change("Case", "UPDATE", {"Description": "x" * 1_000_001})
    yield change("Case", "UPDATE", {"Description": "ü" * 400_000})
    platform = {"Case_Id__c": "5008d000000047SAAQ", "Reason__c": LONG, "Score__c": -0.125, "Requires_Callback__c": True, "Due__c": None}
    yield change("Case_Escalation__e", "", platform)
    yield change("Case_Escalation__e", "")


def publish(org, count, round_number):
    """Publishes `count` random events, with the ordered ones in their midst and a schema change before each half."""
    org.inflict("add-field", entity="Case", field=f"Severity_{round_number}__c")
    org.inflict("add-field", entity="Installation__c", field=f"Contract_{round_number}__c")
    org.generate(count - count // 2)
    for order in ordered(round_number):
        org.publish(**order)
    org.inflict("add-field", entity="MessagingSession", field=f"Mood_{round_number}__c")
    org.inflict("add-field", entity="Case_Escalation__e", field=f"Channel_{round_number}__c")
    if round_number == 2:
        org.inflict("add-change-type", entity="Case", symbol="ARCHIVE")
        org.publish(**change("Case", "ARCHIVE"))
        org.inflict("poison", events=2)
    org.generate(count // 2)
