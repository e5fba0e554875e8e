"""The two known faults of the Node client, salesforce-pubsub-api-client 5.5.2, as narrow as they are.

Lost components. `parseFieldBitmaps` reads the bitmaps of components only from lists of two or more elements
(dist/client.js: `fieldBitmapsAsHex.length > 1 && …`). A list whose only element is `6-0x0180` therefore names nothing.
The service sends such lists: an update by its geocoder was captured with changedFields `["6-0x0180"]` and nothing else, and
nulledFields is such a list whenever nothing but components of one compound was cleared.

Overtaking. The handler of a response is asynchronous and waits for the schema of each event, so that the events of a later
response can be handed on before those of an earlier one. Within a response they keep their order.
"""

LISTS = {"changed": "changedFields", "nulled": "nulledFields", "diff": "diffFields"}
# The components of an address and of a location.
COMPONENTS = (10, 2)


def lists_hit(bitmaps):
    """Which lists of an event the fault empties, by the bytes of the event."""
    return {kind for kind, elements in bitmaps.items() if len(elements) == 1 and "-" in elements[0]}


def lists_hit_by_ledger(line):
    """The same by the ledger alone, which knows nothing of bitmaps: a list that names components of one compound only.

    The second set is what the ledger leaves open. A compound of which it has all components was set as a whole, and no list
    names its components, or each of them was set.
    """
    if line["change_type"] != "UPDATE" or line["poison"]:
        return set(), set()
    changed = line["changed"]
    compounds = [value for value in changed.values() if isinstance(value, dict)]
    with_cleared = [value for value in compounds if None in value.values()]
    hit, left_open = set(), set()
    if len(changed) == len(compounds) == 1 and not line["unresolved"]:
        hit.add("changed")
    if None not in changed.values():
        whole = [value for value in with_cleared if len(value) in COMPONENTS]
        if whole:
            left_open.add("nulled")
        elif len(with_cleared) == 1:
            hit.add("nulled")
    return hit, left_open


def overtaking(keys, responses, positions):
    """Whether responses that came in order explain the order of the keys that a client handed on, and how many overtook.

    `keys` in the order they were handed on, `responses` with count and position in the order they came, `positions` the
    keys in the order they were sent. Returns what contradicts the explanation, and the keys that are not at their place.
    """
    if sum(response["count"] for response in responses) != len(positions):
        return ["the responses do not hold as many events as were sent"], []
    wrong, chunk_of, begin = [], {}, 0
    for number, response in enumerate(responses):
        chunk = positions[begin : begin + response["count"]]
        begin += response["count"]
        if chunk[-1][0] != response["position"]:
            wrong.append(f"response {number} ends at {response['position']}, not at {chunk[-1][0]}")
        chunk_of.update((key, number) for key in chunk)
    for number in range(len(responses)):
        handed_on = [key for key in keys if chunk_of.get(key) == number]
        if handed_on != [key for key in positions if chunk_of[key] == number]:
            wrong.append(f"response {number} was handed on in another order")
    return wrong, [key for key, place in zip(keys, positions) if key != place]
