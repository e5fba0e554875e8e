"""What was written of conversations: each entry once as a message, and once more for each change of its content."""

import json
import re
from collections import defaultdict

from . import ledger

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
MEMBERS = {
    "op", "id", "conversation", "session", "case", "sender", "text", "type", "payload", "client_time", "server_time", "source",
}
APIS = ("connect", "data")
SOURCES = ("event", "sweep", "final", "history", "reconcile")


def examine(report, records, org):
    """Checks the form of every record, and that none repeats what the one before it of the same entry says."""
    written = defaultdict(list)
    for record in records:
        report.seen["messages"] += 1
        try:
            value = ledger.parse(record.value or b"null")
        except ValueError as error:
            report.fault("message", f"{record.place}: {error}")
            continue
        if not isinstance(value, dict) or set(value) - {"too_large"} != MEMBERS:
            report.fault("message", f"{record.place}: not the members of a message")
            continue
        _form(report, record, value, org)
        content = json.dumps([value["text"], value["type"], value["payload"]], sort_keys=True)
        earlier = written[value["id"]]
        owed = "redaction" if earlier else "message"
        if value["op"] != owed:
            report.fault("message", f"{record.place}: entry {value['id']} is a {value['op']!r}, owed a {owed!r}")
        if content in earlier:
            report.fault("doubled message", f"{record.place}: entry {value['id']} stands there with this content already")
        earlier.append(content)
    return written


def _form(report, record, value, org):
    owed = {"casewire": "1", "content-type": "application/json", "entity": "ConversationEntry", "op": value["op"], "org": org}
    owed |= {"entry_id": value["id"]}
    if record.headers != owed or record.repeated_headers:
        report.fault("message", f"{record.place}: headers are {record.headers!r}, owed {owed!r}")
    if record.key != value["conversation"]:
        report.fault("message", f"{record.place}: the key is {record.key!r}, the conversation {value['conversation']!r}")
    source = value["source"]
    if not isinstance(source, dict) or source.get("org") != org or source.get("api") not in APIS or source.get("trigger") not in SOURCES:
        report.fault("message", f"{record.place}: source is {source!r}")
    times = [value["server_time"], source.get("fetched_at") if isinstance(source, dict) else None, value["client_time"] or "-"]
    if any(time != "-" and not INSTANT.fullmatch(str(time)) for time in times):
        report.fault("message", f"{record.place}: times are {times!r}")


def truth(report, records, written, lines):
    """Compares with what was truly said: the lines of the simulator's `GET /messages`."""
    said = {entry["identifier"]: entry for entry in map(json.loads, lines)}
    last = {}
    for record in records:
        value = json.loads(record.value or b"null")
        if isinstance(value, dict):
            last[value.get("id")] = (record, value)
    for identifier in said.keys() - last.keys():
        report.fault("missing message", f"{identifier} of {said[identifier]['conversation']}")
    for identifier, (record, value) in last.items():
        entry = said.get(identifier)
        if entry is None:
            report.fault("stray message", f"{record.place}: nobody said {identifier}")
            continue
        sender = {"role": entry["role"], "app_type": entry["app_type"], "subject": entry["subject"]}
        for name, owed in (("conversation", entry["conversation"]), ("session", entry["session"]), ("text", entry["text"]), ("sender", sender)):
            if value[name] != owed and not (name == "text" and value.get("too_large")):
                report.fault("wrong message", f"{record.place}: {name} is {value[name]!r}, truly {owed!r}")
        if len(written[identifier]) > 1 + entry["redactions"]:
            report.fault("doubled message", f"{identifier} stands {len(written[identifier])} times, changed {entry['redactions']} times")
