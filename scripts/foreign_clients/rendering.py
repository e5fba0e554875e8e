"""A client's event in the form in which the ledger tells it: what changed, what is not told, what else came with it."""

from datetime import datetime, timezone

HEADER = "ChangeEventHeader"


class Contradiction(Exception):
    """The event says two things that cannot both be."""


def plain(value, role):
    """One value as the ledger writes it."""
    if value is None or value == "":
        return None
    if role == "DateTime":
        return _instant(value).strftime("%Y-%m-%dT%H:%M:%S.") + f"{value % 1000:03d}Z"
    if role == "DateOnly":
        return _instant(value).strftime("%Y-%m-%d")
    if role == "TimeOnly":
        return _instant(value).strftime("%H:%M:%S.") + f"{value % 1000:03d}Z"
    if role == "MultiEnum":
        return value.split(";")
    return value


def _instant(millis):
    return datetime.fromtimestamp(millis // 1000, timezone.utc)


def _whole(value, role, empty=False):
    """A field that is told whole; of a compound the components that are set, and with `empty` the others as null."""
    if isinstance(value, dict):
        return {name: plain(child, "") for name, child in value.items() if empty or child is not None}
    return plain(value, role)


def told(payload, schema, names):
    """`changed`, `unresolved` and what else has a value, of an event whose header lists name these fields."""
    values = {name: value for name, value in payload.items() if name != HEADER}
    header = payload.get(HEADER)
    if header is None:
        return {name: _whole(value, schema.roles[name]) for name, value in values.items()}, [], {}
    if header["changeType"] in ("CREATE", "UNDELETE"):
        if any(names.values()):
            raise Contradiction(f"a {header['changeType']} lists changed fields")
        rendered = {name: _whole(value, schema.roles[name]) for name, value in values.items()}
        return {name: value for name, value in rendered.items() if value is not None}, [], {}
    return _sparse(values, schema, names)


def _sparse(values, schema, names):
    """An update says by its lists which of its values mean anything; every other event here has none."""
    changed, left = {}, dict(values)
    for name in names["changed"]:
        if name in names["diff"]:
            if not str(values[name]).startswith("--- \n+++ "):
                raise Contradiction(f"{name} is a diff and does not look like one")
            left.pop(name)
            continue
        parent, _, child = name.partition(".")
        value = values[parent]
        if child:
            if not isinstance(value, dict):
                raise Contradiction(f"{name} changed and {parent} has no value")
            value = value[child]
        if (value is None) != (name in names["nulled"]):
            raise Contradiction(f"{name} is {value!r}, but cleared are {names['nulled']}")
        if child:
            changed.setdefault(parent, {})[child] = plain(value, "")
        else:
            # A compound that changed as a whole has lost the components that it does not have now.
            changed[parent] = _whole(value, schema.roles[parent], empty=True)
        left.pop(parent, None)
    for parent, components in changed.items():
        if isinstance(components, dict) and parent not in names["changed"]:
            stray = [child for child, value in values[parent].items() if child not in components and value is not None]
            if stray:
                raise Contradiction(f"{parent} has values of {stray}, which did not change")
    for kind in ("nulled", "diff"):
        if unchanged := set(names[kind]) - set(names["changed"]):
            raise Contradiction(f"{sorted(unchanged)} are in {kind}Fields and not in changedFields")
    others = {name: _whole(value, schema.roles[name]) for name, value in left.items() if value is not None}
    return changed, sorted(names["diff"]), others
