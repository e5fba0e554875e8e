"""Compares what two public REST clients read of the simulated org with the org's own records, field by field."""

import copy
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
# With every kind of field, with texts that go on over lines, and without events.
OBJECTS = ["Case", "Installation__c", "MessagingSession", "CaseComment"]
# Fields of REST that no event has, and so the org's own rendering neither.
SYSTEM = {"Id", "IsDeleted", "SystemModstamp", "MasterRecordId", "LastViewedDate", "LastReferencedDate"}
# The one of the fewest records: what is falsified is of this.
SMALL = "CaseComment"
RETRIEVED = 60
# Of what is wrong with one answer, so much is shown.
SHOWN = 5
WITH_DELETED = {"node": ("queryAll", "bulk"), "python": ("queryAll",)}


class Failed(Exception):
    """A client could not do what it was asked to."""


def run(org, programs, environment, directory):
    """Lets both clients read, and returns what they were given, by client and object."""
    given = {}
    for name, command in programs.items():
        output = directory / f"{name}-records.json"
        with open(directory / f"{name}-records.stderr", "w") as errors:
            ended = subprocess.run([*command, output, str(RETRIEVED), *OBJECTS], env=environment, stderr=errors, stdout=errors, timeout=240)
        if ended.returncode != 0:
            raise Failed(f"the REST client of {name} ended with {ended.returncode}; see {errors.name}")
        given[name] = json.loads(output.read_text(encoding="utf-8"))
    return {"truth": {name: org.records(name) for name in OBJECTS}, "given": given}


def examine(evidence):
    """Everything that is not as it truly is, and whether the comparison notices what is falsified. Prints both."""
    clean = True
    for client, objects in evidence["given"].items():
        for name, told in objects.items():
            found = list(differences(client, name, told, evidence["truth"][name]))
            clean &= not found
            read = {what: len(told[what]) for what in ("query", "queryAll", "retrieve", "bulk")}
            print(f"{client:7}{name:17}" + "".join(f"{what} {count:<7}" for what, count in read.items()) + f"differing {len(found)}")
            for difference in found[:SHOWN]:
                print(f"    {difference}")
    unnoticed = [what for what, falsified in falsifications(evidence) if not any(everything(falsified))]
    for what in unnoticed:
        print(f"not noticed by the comparison of records: {what}")
    return clean and not unnoticed


def everything(evidence):
    for client, objects in evidence["given"].items():
        for name, told in objects.items():
            yield from differences(client, name, told, evidence["truth"][name])


def differences(client, name, told, truth):
    truth = {record["id"]: record for record in truth}
    alive = {id for id, record in truth.items() if not record["deleted"]}
    yield from _described(name, told["describe"], truth)
    for what in ("query", "queryAll", "bulk", "retrieve"):
        wanted = set(truth) if what in WITH_DELETED[client] else alive
        rows = told[what]
        if what == "retrieve":
            wanted = wanted & set(told["ids"])
            # The collection resource has a null where a record is deleted.
            rows = [row for row in rows if row is not None]
            if not told["ids"]:
                yield f"{name} retrieve: nothing was asked for"
        ids = [row.get("Id") for row in rows]
        for id in sorted(wanted - set(ids)):
            yield f"{name} {what}: {id} is missing"
        for id in sorted((id for id, count in Counter(ids).items() if id not in wanted or count > 1), key=str):
            yield f"{name} {what}: {id} is one too many"
        for row in rows:
            if row.get("Id") in truth:
                for difference in _row(told["describe"], row, truth[row["Id"]], what == "bulk"):
                    yield f"{name} {what} {row['Id']}: {difference}"


def _described(name, fields, truth):
    names = {field["name"] for field in fields}
    for record in truth.values():
        for lacking in set(record["fields"]) - names:
            yield f"{name} describe: no {lacking}"
            return


def _row(fields, row, truth, from_csv):
    """A row beside the truth, by what describe says of each field."""
    told = {"IsDeleted": truth["deleted"], "SystemModstamp": truth["system_modstamp"], "Id": truth["id"]}
    for field in fields:
        name, kind, compound = field["name"], field["type"], field["compoundFieldName"]
        if from_csv and kind in ("address", "location"):
            continue
        if name not in row:
            yield f"{name} is not there"
            continue
        if name in SYSTEM:
            expected = told.get(name)
        elif compound and compound != name:
            parts = truth["fields"].get(compound) or {}
            expected = parts.get(name.removesuffix("__s").rsplit("__", 1)[-1])
        else:
            expected = truth["fields"].get(name)
        try:
            found = value(kind, row[name], from_csv)
        except (ValueError, AttributeError, TypeError) as error:
            yield f"{name}: {row[name]!r} is no {kind}: {error}"
            continue
        if found != canonical(kind, expected):
            yield f"{name}: {found!r}, and truly {expected!r}"
    for name in set(row) - {field["name"] for field in fields} - {"attributes"}:
        yield f"{name}, which describe does not show"


def value(kind, given, from_csv):
    """A value of REST, or a cell of Bulk's CSV, in the org's own rendering."""
    if given is None or (from_csv and given == ""):
        return canonical(kind, None)
    if kind in ("address", "location"):
        return {part[0].upper() + part[1:]: number(inner) for part, inner in given.items() if inner is not None} or None
    if kind == "boolean":
        return {"true": True, "false": False}[given] if from_csv else canonical(kind, given)
    if kind in ("int", "long", "double", "currency", "percent"):
        return float(given)
    if not isinstance(given, str):
        raise TypeError("a text is expected")
    if kind == "datetime":
        for zone in ("+0000", "Z"):
            if given.endswith(zone):
                return given.removesuffix(zone)
        raise ValueError("a time without a zone")
    return given.split(";") if kind == "multipicklist" else given


def canonical(kind, rendered):
    """A value of the org's own rendering, so that equal ones are equal."""
    if kind == "boolean":
        if rendered not in (None, True, False):
            raise TypeError("a checkbox is expected")
        return bool(rendered)
    if rendered is None:
        return None
    if kind in ("int", "long", "double", "currency", "percent"):
        return float(rendered)
    if kind == "datetime":
        return rendered.removesuffix("Z")
    if isinstance(rendered, dict):
        return {part: number(inner) for part, inner in rendered.items() if inner is not None} or None
    return rendered


def number(inner):
    return float(inner) if isinstance(inner, (int, float)) and not isinstance(inner, bool) else inner


def falsifications(evidence):
    """The evidence with one thing changed that no comparison may miss, and what that is."""

    def without(rows):
        rows.pop()

    def twice(rows):
        rows.append(copy.deepcopy(rows[0]))

    def set_first(name, change):
        def changed(rows):
            row = next(row for row in rows if row and row.get(name) not in (None, ""))
            row[name] = change(row[name])

        return changed

    shorter = set_first("CommentBody", lambda text: text[:-1])
    later = set_first("SystemModstamp", lambda text: text.replace("T", "T2", 1))
    without_zone = set_first("CreatedDate", lambda text: text.removesuffix("Z").removesuffix("+0000"))
    for client in evidence["given"]:

        def one(client=client):
            return {"truth": evidence["truth"], "given": {client: {SMALL: copy.deepcopy(evidence["given"][client][SMALL])}}}

        for what in ("query", "queryAll", "bulk", "retrieve"):
            for name, change in (("a row lost", without), ("a row twice", twice), ("a text cut", shorter), ("a stamp moved", later), ("a zone lost", without_zone)):
                if what == "retrieve" and change is without:
                    change = _first_there_lost
                falsified = one()
                change(falsified["given"][client][SMALL][what])
                yield f"{name} of {what} by {client}", falsified
        falsified = one()
        described = falsified["given"][client][SMALL]["describe"]
        described[:] = [field for field in described if field["name"] != "IsPublished"]
        yield f"a field that describe hides, by {client}", falsified


def _first_there_lost(rows):
    rows.remove(next(row for row in rows if row is not None))


def programs(node_program):
    """How both clients are started."""
    return {"node": ["node", node_program], "python": [sys.executable, "-B", HERE / "rest_client.py"]}
