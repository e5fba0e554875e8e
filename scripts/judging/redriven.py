"""Dead letters that were redriven: the entries of the gap ledger about them, and what has to come of their events.

An event that can be decoded is no letter, unless a redrive owns up to it: then its schema could not be had, or its records
were too large, when it came. A change event is then owed no record of its own, since its records are read anew; a
platform event is owed once, as it was, from the moment at which its entry is healed."""

from dataclasses import replace

from . import ledger

CAUSE = "redriven"


class Redriven:
    """The letters that were redriven, by the identity of their events."""

    def __init__(self, report, gaps, letters, by_identity, org):
        self.report, self.by_identity, self.org = report, by_identity, org
        self.letters = {record.key: (record.headers.get("replay_id"), record.headers.get("event_id")) for record in letters}
        self.states, self.entities = {}, {}  # letter -> the state of its entry, and what its rows are of
        self.identities = {}  # identity of an event -> its letter
        for record in gaps:
            try:
                value = ledger.parse(record.value or b"null")
            except ValueError:
                continue
            if isinstance(value, dict) and value.get("cause") == CAUSE:
                self._entry(record, value)

    def _entry(self, record, value):
        letter, state = value.get("letter"), value.get("state")
        identity = self.letters.get(letter)
        event = self.by_identity.get(identity)
        if event is None or record.key != f"letter-{letter}" or value.get("id") != record.key:
            self.report.fault("stray gap", f"{record.place}, key {record.key}: redriven, and there is no letter {letter}")
            return
        if state == "open" and self.states.get(letter) in ("open", "healed"):
            self.report.fault("doubled gap entry", f"{record.place}: the letter {letter} is {self.states[letter]} already")
        self.states[letter], self.entities[letter] = state, value.get("entity")
        self.identities[identity] = letter
        line = event.line
        owed = {"org": self.org, "topic": event.stream, "entity": line["entity"], "source": None}
        for name, of_event in owed.items():
            if value.get(name, KeyError) != of_event:
                self.report.fault("wrong value", f"{record.place}, {event.name}: gap {name} is {value.get(name)!r}, owed {of_event!r}")
        # Without names the whole object is read, or the event is written as it was.
        if value.get("records") not in ([], [] if event.is_platform_event else line["record_ids"]):
            self.report.fault("wrong value", f"{record.place}, {event.name}: gap records is {value.get('records')!r}")

    def letter_of(self, event):
        return self.identities.get(event.identity)

    def expectations(self, event, expected):
        """The records that the event has to become: without a letter, all that it would."""
        letter = self.letter_of(event)
        if letter is None:
            return expected
        if not event.is_platform_event or self.states[letter] != "healed":
            return []
        return [replace(one, headers=one.headers | {"redriven_from": letter}) for one in expected]

    def row(self, place, letter, entity):
        """A record that a job read for a letter."""
        if self.entities.get(letter) != entity:
            self.report.fault("wrong job record", f"{place}: redriven from {letter}, which was not, or not for {entity}")
        self.report.seen["records redriven"] += 1
