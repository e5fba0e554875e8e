"""A finished run: what was sent, what both clients received, and the verdict."""

from collections import Counter
from itertools import islice

import known_fault
from comparison import Bytes, compare
from schema import Schema

# Of what is wrong with one subscription, so much is shown.
SHOWN = 10


class Evidence:
    """A finished run, its ledger, and what both clients received in it."""

    def __init__(self, run, ledger):
        self.run, self.ledger = run, ledger
        python = run.clients[-1]
        self.schemas = {schema_id: Schema(text) for schema_id, text in python.schemas.items()}
        self.bytes = Bytes(python.everything("event"))

    def compare(self, client, wanted):
        reports = client.reported(wanted.scenario, wanted.topic, "event")
        if client.name != "node":
            return compare(wanted.lines, reports, self.schemas)
        responses = client.reported(wanted.scenario, wanted.topic, "response")
        return compare(wanted.lines, reports, self.schemas, self.bytes, responses)

    def judge(self):
        """Compares every subscription, prints a line for each and what differs below it. Returns whether nothing does."""
        heads = ("published", "received", "missing", "extra", "differing", "disorder", "lost names", "overtaking")
        print(f"{'client':7}{'scenario':9}{'topic':35}" + "".join(f"{head:>11}" for head in heads))
        clean, lost, events = True, Counter(), {}
        for client in self.run.clients:
            for wanted in self.run.expectations(self.ledger):
                outcome = self.compare(client, wanted)
                clean &= outcome.clean
                lost.update(kind for lists in outcome.excused.values() for kind in lists)
                events |= outcome.excused
                found = [outcome.missing, outcome.extra, outcome.differing, outcome.disorder, outcome.excused, outcome.overtaken]
                counts = [outcome.published, outcome.received, *map(len, found)]
                print(f"{client.name:7}{wanted.scenario:9}{wanted.topic:35}" + "".join(f"{count:11}" for count in counts))
                for fault in islice(outcome.faults(), SHOWN):
                    print(f"    {fault}")
        for kind, count in sorted(lost.items()):
            distinct = sum(kind in lists for lists in events.values())
            print(f"lost names: {known_fault.LISTS[kind]} named nothing to the Node client in {distinct} events, received {count} times, as it is known to")
        return clean
