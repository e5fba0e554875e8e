"""Falsifies copies of the ledger, in every member and in every way an event can go wrong, for the comparison to notice.

A comparison that finds nothing proves something only if it would have found each of these in the very same evidence.
"""

import copy
import dataclasses
import itertools


def _edited(applies, change):
    """A mutation of the first line it applies to."""

    def mutate(lines):
        for at, line in enumerate(lines):
            if not line["poison"] and applies(line):
                changed = copy.deepcopy(line)
                change(changed)
                return [*lines[:at], changed, *lines[at + 1 :]]
        return None

    return mutate


def _value(applies, new):
    """A mutation of the first value in `changed` that it applies to."""

    def first(line):
        return next((name for name, value in line["changed"].items() if applies(value)), None)

    def change(line):
        name = first(line)
        line["changed"][name] = new(line["changed"][name])

    return _edited(lambda line: first(line) is not None, change)


def _component(applies, new):
    """The same one level down, in an update."""

    def components(line):
        return ((value, child) for value in line["changed"].values() if isinstance(value, dict) for child in value if applies(value[child]))

    def change(line):
        value, child = next(components(line))
        value[child] = new(value[child])

    return _edited(lambda line: line["change_type"] == "UPDATE" and next(components(line), None), change)


def _is_update(line):
    return line["change_type"] == "UPDATE"


def _is_change(line):
    return line["change_type"] is not None


def _number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _header(member, new):
    return _edited(lambda line: _is_change(line) and line[member], lambda line: line.update({member: new(line[member])}))


def _drop_last(lines):
    return lines[:-1] if lines else None


def _drop_middle(lines):
    return [line for at, line in enumerate(lines) if at != len(lines) // 2] if lines else None


def _invent(lines):
    return [*lines, {**lines[-1], "event_id": "00000000-0000-4000-8000-000000000000"}] if lines else None


def _swap_order(lines):
    return [lines[1], lines[0], *lines[2:]] if len(lines) > 1 else None


def _swap_ids(lines):
    if len(lines) < 2:
        return None
    first, second = lines[0], lines[1]
    return [{**first, "event_id": second["event_id"]}, {**second, "event_id": first["event_id"]}, *lines[2:]]


def _swap_values(lines):
    at = next((at for at in range(1, len(lines)) if lines[at]["changed"] != lines[at - 1]["changed"]), None)
    if at is None:
        return None
    before, after = ({**lines[at - 1], "changed": lines[at]["changed"]}, {**lines[at], "changed": lines[at - 1]["changed"]})
    return [*lines[: at - 1], before, after, *lines[at + 1 :]]


def _move_position(text):
    return f"{int(text[:16], 16) + 1:016x}0000"


MUTATIONS = {
    "the last event lost": _drop_last,
    "an event lost in the middle": _drop_middle,
    "an event that was never sent": _invent,
    "two events in the other order": _swap_order,
    "the ids of two events swapped": _swap_ids,
    "the values of two events swapped": _swap_values,
    "a replay id": _edited(lambda line: True, lambda line: line.update(replay_id=_move_position(line["replay_id"]))),
    "an event id": _edited(lambda line: True, lambda line: line.update(event_id=line["event_id"][::-1])),
    "a schema id": _edited(lambda line: True, lambda line: line.update(schema_id=line["schema_id"][::-1])),
    "an entity": _header("entity", lambda name: name + "x"),
    "a change type": _header("change_type", lambda kind: "DELETE" if kind != "DELETE" else "UPDATE"),
    "a record id lost": _edited(lambda line: len(line["record_ids"]) > 1, lambda line: line["record_ids"].pop()),
    "record ids in another order": _edited(lambda line: len(line["record_ids"]) > 1, lambda line: line["record_ids"].reverse()),
    "an origin": _header("origin", lambda text: text + "x"),
    "a transaction key": _header("transaction_key", lambda text: text[::-1]),
    "a sequence number": _header("sequence_number", lambda number: number + 1),
    "a commit number": _header("commit_number", lambda text: str(int(text) + 1)),
    "a commit time": _header("commit_timestamp", lambda millis: millis + 1000),
    "a user": _header("user", lambda text: text[::-1]),
    "a platform event's time": _edited(lambda line: not _is_change(line), lambda line: line.update(commit_timestamp=0)),
    "a platform event's user": _edited(lambda line: not _is_change(line), lambda line: line.update(user="")),
    "a text": _value(lambda value: isinstance(value, str), lambda text: text + "x"),
    "a number": _value(_number, lambda number: number + 1),
    "a number's fraction": _value(_number, lambda number: number + 0.0625),
    "a flag": _value(lambda value: isinstance(value, bool), lambda flag: not flag),
    "a flag as a number": _value(lambda value: isinstance(value, bool), int),
    "a choice of many": _value(lambda value: isinstance(value, list), lambda values: values[1:]),
    "a cleared field with a value": _value(lambda value: value is None, lambda _: "x"),
    "a value cleared": _value(lambda value: isinstance(value, str), lambda _: None),
    "a changed field forgotten": _edited(lambda line: line["changed"], lambda line: line["changed"].popitem()),
    "a changed field too many": _edited(_is_update, lambda line: line["changed"].update(Nothing__c=None)),
    "a component": _component(lambda value: value is not None, lambda _: "x"),
    "a component cleared": _component(lambda value: value is not None, lambda _: None),
    "a cleared component with a value": _component(lambda value: value is None, lambda _: "x"),
    "a component too many": _edited(
        lambda line: _is_update(line) and any(isinstance(value, dict) for value in line["changed"].values()),
        lambda line: next(value for value in line["changed"].values() if isinstance(value, dict)).update(Planet="Earth"),
    ),
    "a diff forgotten": _edited(lambda line: line["unresolved"], lambda line: line["unresolved"].pop()),
    "a diff told as a value": _edited(
        lambda line: line["unresolved"], lambda line: line["changed"].update({line["unresolved"].pop(): "x"})
    ),
    "an enriched field": _edited(lambda line: line["enriched"], lambda line: line["enriched"].update({next(iter(line["enriched"])): "x"})),
    "an enriched field forgotten": _edited(lambda line: line["enriched"], lambda line: line["enriched"].popitem()),
    "an enriched field told as changed": _edited(
        lambda line: _is_update(line) and line["enriched"], lambda line: line["changed"].update([line["enriched"].popitem()])
    ),
    "an event made undecodable": _edited(lambda line: True, lambda line: line.update(poison=True)),
}


def unnoticed(evidence):
    """Applies each to the evidence of each client, and names those after which the comparison is as content as before."""
    clients = evidence.run.clients
    wanted = [one for one in evidence.run.expectations(evidence.ledger) if one.scenario == "earliest"]
    # The topics with few events first: the comparison goes over all of one again.
    wanted.sort(key=lambda one: len(one.lines))
    for (name, mutate), client in itertools.product(MUTATIONS.items(), clients):
        mutated = ((one, mutate(one.lines)) for one in wanted)
        found = next(((one, lines) for one, lines in mutated if lines is not None), None)
        if found is None:
            yield f"{name}: no event of this run has it"
            continue
        one, lines = found
        if evidence.compare(client, dataclasses.replace(one, lines=lines)).clean:
            yield f"{name} ({client.name}, {one.topic})"
