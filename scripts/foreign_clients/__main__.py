"""Runs both clients against the simulated org and compares; scripts/clients says what for."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import mutations  # noqa: E402
import records  # noqa: E402
import selftest  # noqa: E402
from conversation import Client, Silent  # noqa: E402
from evidence import SHOWN, Evidence  # noqa: E402
from org import Org, OrgError  # noqa: E402
from scenarios import Run  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/clients")
    parser.add_argument("--events", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--binary", type=Path)
    parser.add_argument("--node", type=Path, help="where the Node client is installed")
    return parser.parse_args()


def environment(org):
    settings = org.settings
    return {
        **os.environ,
        "LOGIN_URL": settings["SALESFORCE_LOGIN_URL"],
        "CLIENT_ID": settings["SALESFORCE_CLIENT_ID"],
        "CLIENT_SECRET": settings["SALESFORCE_CLIENT_SECRET"],
        "USERNAME": settings["SALESFORCE_USERNAME"],
        "KEY_FILE": settings["SALESFORCE_PRIVATE_KEY_FILE"],
        "PUBSUB_ENDPOINT": settings["PUB_SUB_ENDPOINT"],
        "CA_FILE": settings["PUBSUB_CA_FILE"],
        "NODE_EXTRA_CA_CERTS": settings["PUBSUB_CA_FILE"],
    }


def node_program(installed, directory, ca):
    """Copies the Node client beside what was installed, and lets the copy trust the simulator: it trusts only its own list."""
    name = "salesforce-pubsub-api-client"
    package = directory / "node_modules" / name
    shutil.copytree(installed / "node_modules" / name, package)
    for bundle in package.glob("dist/cacert-*.pem"):
        with open(bundle, "ab") as trusted:
            trusted.write(b"\n" + Path(ca).read_bytes())
    return shutil.copy(HERE / "node_client.mjs", directory)


def rest_program(installed, directory):
    """Puts jsforce's program where it finds what was installed beside the other client."""
    for package in (installed / "node_modules").iterdir():
        place = directory / "node_modules" / package.name
        if not place.exists():
            place.symlink_to(package)
    return shutil.copy(HERE / "rest_client.mjs", directory)


def play(chosen, directory):
    scratch = tempfile.mkdtemp(prefix="run.", dir=chosen.node)
    try:
        with Org(chosen.binary, directory, chosen.seed) as org:
            told = environment(org)
            program = node_program(chosen.node, Path(scratch), told["CA_FILE"])
            with (
                Client("node", ["node", program], told, directory) as node,
                Client("python", [sys.executable, "-B", HERE / "python_client.py"], told, directory) as python,
            ):
                run = Run(org, [node, python], chosen.events)
                run.play()
            program = rest_program(chosen.node, Path(scratch))
            read = records.run(org, records.programs(program), told, directory)
            clean = examine(Evidence(run, org.ledger()), chosen.seed)
            return records.examine(read) and clean
    finally:
        shutil.rmtree(scratch)


def examine(evidence, seed):
    """Everything that can be said against a run. Returns whether nothing can."""
    clean = evidence.judge()
    findings = list(evidence.run.findings(evidence.ledger))
    unnoticed = list(mutations.unnoticed(evidence))
    for finding in findings[:SHOWN]:
        print(f"found: {finding}")
    for mutation in unnoticed:
        print(f"not noticed by the comparison: {mutation}")
    sent = sum(len(client.everything("event")) for client in evidence.run.clients)
    print(f"seed {seed}: {len(evidence.ledger)} ledger lines, received {sent} times; of {len(mutations.MUTATIONS)} falsifications of them {len(unnoticed)} went unnoticed by either comparison")
    return clean and not findings and not unnoticed


def main():
    for ending in (signal.SIGTERM, signal.SIGHUP):
        # As an exception, so that the processes started here are ended too.
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    chosen = arguments()
    if chosen.self_test:
        suite = unittest.defaultTestLoader.loadTestsFromModule(selftest)
        return 0 if unittest.TextTestRunner().run(suite).wasSuccessful() else 1
    directory = (chosen.keep or Path(tempfile.mkdtemp(prefix="casewire-clients."))).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    keep = chosen.keep is not None
    try:
        clean = play(chosen, directory)
        keep |= not clean
    except (OrgError, Silent, records.Failed) as error:
        print(f"clients: {error}", file=sys.stderr)
        clean, keep = False, True
    finally:
        if keep:
            print(f"What was sent and received is in {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory)
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
