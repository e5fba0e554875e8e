"""A stream's own topic: the sequence without a hole, the position that only goes forward, and the end."""

from . import ledger


# What a stream keeps beside its checkpoint, under keys of its own: conversations and what of them is to be fetched.
KEPT = "kept/"


def examine(report, topic, events, records, begun_anew=()):
    """Looks at all checkpoints of one stream; `events` are those of the stream, in the order of the bus. `begun_anew` names
    the last event before each position that Salesforce refused, in the order of the gap ledger's entries."""
    number_of = {event.identity: event.n for event in events}
    values = []
    for record in records:
        if (record.key or "").startswith(KEPT):
            continue
        report.seen["checkpoints"] += 1
        try:
            value = ledger.parse(record.value or b"")
        except ValueError as error:
            report.fault("checkpoint", f"{record.place}: {error}")
            continue
        if isinstance(value, dict) and isinstance(value.get("seq"), int) and isinstance(value.get("position"), dict):
            values.append((record, value))
        else:
            report.fault("checkpoint", f"{record.place}: no seq or no position")
    if not values:
        report.fault("checkpoint", f"{topic} holds no checkpoint")
        return
    if len({(record.key, record.partition) for record, _ in values}) > 1:
        report.fault("checkpoint", f"{topic} has more than one key or partition")
    _sequence(report, values)
    _positions(report, values, number_of, begun_anew)
    _end(report, topic, events, values[-1])
    report.writers[topic] = _writers(report, values)


def _sequence(report, values):
    """Every committed checkpoint is one more than the last: a hole is a commit that was lost, a repeat a foreign writer."""
    record, first = values[0]
    if first["seq"] not in (0, 1):
        report.fault("checkpoint sequence", f"{record.place}: begins with {first['seq']}; were the topic's segments compacted?")
    for (_, before), (record, after) in zip(values, values[1:]):
        if after["seq"] != before["seq"] + 1:
            report.fault("checkpoint sequence", f"{record.place}: {after['seq']} follows {before['seq']}")


def _taken(position):
    """The events that a position says are taken: the newest ones, by key."""
    keys = [*position.get("recent", []), *position.get("already", [])]
    return [tuple(key.split("/", 1)) for key in keys if isinstance(key, str)]


def _starts_over(position):
    """Whether a position goes on from the oldest event with nothing taken yet."""
    anchor = position.get("anchor")
    return isinstance(anchor, dict) and "earliest" in anchor and not _taken(position)


def _positions(report, values, number_of, begun_anew):
    newest_before, anew, started_over = 0, iter(begun_anew), True
    for record, value in values:
        taken = _taken(value["position"])
        for key in taken:
            if key not in number_of:
                report.fault("checkpoint position", f"{record.place}: {'/'.join(key)} was never sent to this stream")
        again, started_over = started_over, _starts_over(value["position"])
        if started_over:
            # Announcements repeat such a position. Each refused one is good for one new start, which may take again
            # what came after it, and nothing of before.
            refused = None if again else next(anew, None)
            newest_before = newest_before if refused is None else refused
            if again or refused is not None:
                continue
        newest = max((number_of[key] for key in taken if key in number_of), default=0)
        if newest < newest_before:
            report.fault("checkpoint position", f"{record.place}: went back from event {newest_before} to {newest}")
        newest_before = max(newest, newest_before)


def _end(report, topic, events, last):
    """A position remembers the last 100 events, so the last one of all stands in it, whatever keepalive came since."""
    record, value = last
    if events and events[-1].identity not in _taken(value["position"]):
        report.fault("checkpoint position", f"{record.place}: the last checkpoint of {topic} has not taken {events[-1].name}")


def _writers(report, values):
    """The runs that wrote, in the order of their take-overs."""
    runs = []
    for record, value in values:
        writer = value.get("writer")
        run = writer.get("run_id") if isinstance(writer, dict) else None
        if not isinstance(run, str) or not run:
            report.fault("checkpoint", f"{record.place}: no writer.run_id")
        elif not runs or runs[-1] != run:
            runs.append(run)
    return runs
