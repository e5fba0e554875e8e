"""Alert rules and dashboard. That the metrics they name exist is held by a test of the program."""

import json

from place import program, run


def check_rules(place):
    code, said = run(program("promtool"), "check", "rules", place.path("deploy/alerts.yaml"))
    return said.splitlines() if code != 0 else []


def check_rule_tests(place):
    code, said = run(program("promtool"), "test", "rules", place.path("deploy/alerts.test.yaml"))
    if code != 0:
        return said.splitlines()
    rules = [rule["alert"] for group in place.documents("deploy/alerts.yaml")[0]["groups"] for rule in group["rules"]]
    [tests] = place.documents("deploy/alerts.test.yaml")
    asked = [test for one in tests["tests"] for test in one.get("alert_rule_test", [])]
    fires = {test["alertname"] for test in asked if test.get("exp_alerts")}
    silent = {test["alertname"] for test in asked if not test.get("exp_alerts")}
    complaints = [f"no test lets {rule} fire" for rule in rules if rule not in fires]
    return complaints + [f"no test keeps {rule} silent" for rule in rules if rule not in silent]


def check_dashboard(place):
    board = json.loads(place.text("deploy/grafana-dashboard.json"))
    complaints = []
    panels = board["panels"]
    ids = [panel["id"] for panel in panels]
    complaints += [f"the id {one} is there twice" for one in sorted(set(ids)) if ids.count(one) > 1]
    names = {variable["name"] for variable in board["templating"]["list"]}
    if "datasource" not in names:
        complaints.append("there is no variable for the data source")
    taken = {}
    for panel in panels:
        place_of = panel["gridPos"]
        if place_of["x"] + place_of["w"] > 24:
            complaints.append(f"{panel['title']}: is wider than the board")
        for x in range(place_of["x"], place_of["x"] + place_of["w"]):
            for y in range(place_of["y"], place_of["y"] + place_of["h"]):
                other = taken.setdefault((x, y), panel["title"])
                if other != panel["title"]:
                    complaints.append(f"{panel['title']}: lies over {other}")
                    taken[(x, y)] = panel["title"]
        if panel["type"] == "row":
            continue
        if panel["datasource"].get("uid") != "${datasource}":
            complaints.append(f"{panel['title']}: does not ask the chosen data source")
        if not panel.get("targets") or not panel.get("description"):
            complaints.append(f"{panel['title']}: shows nothing, or does not say what it shows")
    shown = [panel for panel in panels if panel["type"] != "row"]
    if "casewire_data_loss_seconds" not in shown[0]["targets"][0]["expr"]:
        complaints.append("the time until data loss is not the first thing that one sees")
    if board.get("id") is not None or "__inputs" in board:
        complaints.append("it is an export of one installation, which another one cannot import as it is")
    return sorted(set(complaints))
