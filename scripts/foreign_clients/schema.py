"""Event schemas as GetSchema answers them: their ids, field names by position, and what bitmaps over them name.

Written after the public description of the format alone; it shares no code with casewire or the clients.
"""

import base64
import hashlib
import json

import fastavro.schema


class BadBitmap(Exception):
    """A bitmap of a form that is not described, or of a field that is not there."""


class Schema:
    """The fields of an event in schema order, and what the documentation in the schema says they are."""

    def __init__(self, text):
        parsed = json.loads(text)
        self.fields = [field["name"] for field in parsed["fields"]]
        # `Data:DateTime`, for custom fields with the field's id behind it.
        self.roles = {field["name"]: field.get("doc", ":").split(":")[1] for field in parsed["fields"]}
        self.children = _children(parsed["fields"])
        canonical = fastavro.schema.to_parsing_canonical_form(parsed)
        self.fingerprint = base64.urlsafe_b64encode(hashlib.md5(canonical.encode()).digest()).decode().rstrip("=")

    def names(self, bitmaps):
        """The fields that a header list names: `Status`, or `Site_Address__c.City` where only components are meant."""
        found = []
        for element in bitmaps:
            parent, separator, bits = element.rpartition("-")
            if not separator:
                found += _set_bits(bits, self.fields)
                continue
            name = self.fields[int(parent)]
            if name not in self.children:
                raise BadBitmap(f"{element}: {name} has no components")
            found += [f"{name}.{child}" for child in _set_bits(bits, self.children[name])]
        return found


def _set_bits(bits, names):
    if not bits.startswith("0x"):
        raise BadBitmap(bits)
    number = int(bits, 16)
    if number >> len(names):
        raise BadBitmap(f"{bits} names more than the {len(names)} fields there are")
    return [name for at, name in enumerate(names) if number >> at & 1]


def _children(fields):
    """The components of every compound; a type is spelled out at its first use and only named afterwards."""
    records, children = {}, {}
    for field in fields:
        branches = field["type"] if isinstance(field["type"], list) else [field["type"]]
        for branch in branches:
            if isinstance(branch, dict) and branch.get("type") == "record":
                records[branch["name"]] = [child["name"] for child in branch["fields"]]
            name = branch["name"] if isinstance(branch, dict) else branch
            if name in records:
                children[field["name"]] = records[name]
    return children
