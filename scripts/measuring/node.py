"""The public Node client, as an everyday point of comparison."""

import hashlib
import shutil

from .machine import Process, Unmeasurable, run
from .org import TOPIC

# It imports underscore and does not name it.
PACKAGES = ["salesforce-pubsub-api-client@5.5.2", "underscore@1.13.7"]


def install(target):
    """The directory with the packages; filled by npm the first time."""
    home = target / f"node-{hashlib.sha256(' '.join(PACKAGES).encode()).hexdigest()[:12]}"
    for program in ("node", "npm"):
        if not shutil.which(program):
            raise Unmeasurable(f"{program} is not installed (Debian: apt-get install nodejs npm); leave the row out with --without node")
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        (home / "package.json").write_text('{"private": true}')
        run(["npm", "install", "--prefix", home, "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES])
        (home / "complete").touch()
    return home


def trusting(home, org, directory):
    """A copy of the client that trusts the org: it has its certificates in a file of its own and takes no others."""
    copy = directory / "node"
    shutil.copytree(home, copy, symlinks=True)
    for bundle in copy.glob("node_modules/salesforce-pubsub-api-client/dist/cacert-*.pem"):
        bundle.write_text(bundle.read_text() + org.ca.read_text())
    return copy


def receive(bench, home, org, events, address=None):
    """Lets it count so many events."""
    environment = {
        "NODE_CLIENT_HOME": str(home), "LOGIN_URL": org.login_url, "CLIENT_ID": org.client_id,
        "CLIENT_SECRET": org.client_secret, "PUB_SUB_ENDPOINT": address or org.address, "TOPIC": TOPIC, "EVENTS": str(events),
    }
    script = bench.root / "scripts" / "measuring" / "node_client.mjs"
    return Process(["node", script], bench.directory / "node.log", environment).figures()
