"""Runs the checks of scripts/deploy-check, which has the help."""

import argparse
import sys
import tempfile
from pathlib import Path

import alerting
import containers
import kubernetes_objects
import printed
import selftest
import unit
from place import NotRun, Place

CHECKS = [
    ("systemd unit", unit.check),
    ("Dockerfile", containers.check_dockerfile),
    ("build context", containers.check_context),
    ("compose.yaml", containers.check_compose),
    ("Kubernetes manifests", kubernetes_objects.check),
    ("configurations in deploy/", printed.check_configurations),
    ("alert rules", alerting.check_rules),
    ("unit tests of the alert rules", alerting.check_rule_tests),
    ("Grafana dashboard", alerting.check_dashboard),
    ("JSON Schema of the configuration", printed.check_schema),
    ("shell completions", printed.check_completions),
    ("manual pages", printed.check_manual),
]


def examine(name, check, place):
    """One check; returns whether nothing is wrong."""
    try:
        complaints, notes = check(place), place.taken_notes()
    except NotRun as reason:
        print(f"NOT RUN: {name}: {reason}")
        return True
    for note in notes:
        print(f"NOT RUN: {name}: {note}")
    for complaint in complaints:
        print(f"WRONG  {name}: {complaint}")
    if not complaints:
        print(f"ok     {name}")
    return not complaints


def main():
    parser = argparse.ArgumentParser(prog="scripts/deploy-check")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--self-test", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="casewire-deploy-check-") as work:
        place = Place(chosen.root, chosen.binary, Path(work))
        if chosen.self_test:
            return selftest.run(dict(CHECKS), place)
        return 0 if all([examine(name, check, place) for name, check in CHECKS]) else 1


sys.exit(main())
