"""Each check has to notice something that is wrong: what it reads is spoilt in a copy, one thing at a time."""

import shutil
from pathlib import Path

from place import NotRun, Place

# What is spoilt: the check, the file, what stands there, what stands there instead, and a word of the complaint.
SPOILT = [
    ("systemd unit", "deploy/casewire.service", "WatchdogSec=2min", "WatchdogSecs=2min", "WatchdogSecs"),
    ("systemd unit", "deploy/casewire.service", "TimeoutStopSec=45", "TimeoutStopSec=20", "shutdown_timeout"),
    ("systemd unit", "deploy/casewire.service", "ProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\nPrivateDevices=yes\n", "", "shut in"),
    ("Dockerfile", "Dockerfile", "STOPSIGNAL SIGTERM", "STOPSIGNALS SIGTERM", "missing whitespace"),
    ("Dockerfile", "Dockerfile", "distroless/cc-debian12:nonroot", "distroless/cc-debian12", "no tag"),
    ("Dockerfile", "Dockerfile", "USER 65532:65532", "USER 0", "root"),
    ("Dockerfile", "Dockerfile", "--features self-contained", "--features static", "no feature static"),
    ("build context", ".dockerignore", "!config\n", "", "config/casewire.toml"),
    ("build context", ".dockerignore", "!benches\n", "", "cargo cannot read it"),
    ("compose.yaml", "deploy/compose.yaml", '"127.0.0.1:9092:9092"', '"9092:9092"', "open to others"),
    ("compose.yaml", "deploy/compose.yaml", "stop_grace_period", "stop_grace_time", "stop_grace_time"),
    ("compose.yaml", "deploy/compose.yaml", "- ./compose:/etc", "- ./composed:/etc", "does not exist"),
    ("Kubernetes manifests", "deploy/kubernetes/base/deployment.yaml", "livenessProbe:", "livenessCheck:", "livenessCheck"),
    ("Kubernetes manifests", "deploy/kubernetes/base/deployment.yaml", "containerPort: 8686", 'containerPort: "8686"', "int"),
    ("Kubernetes manifests", "deploy/kubernetes/base/deployment.yaml", "mountPath: /etc/casewire", "subPath: /etc/casewire", "mountPath is missing"),
    ("Kubernetes manifests", "deploy/kubernetes/base/deployment.yaml", "type: Recreate", "type: RollingUpdate", "strategy"),
    ("Kubernetes manifests", "deploy/kubernetes/base/deployment.yaml", "path: /live", "path: /ready", "liveness"),
    ("Kubernetes manifests", "deploy/kubernetes/base/poddisruptionbudget.yaml", "  selector:\n    matchLabels:\n      app.kubernetes.io/name: casewire\n", "  selector: {}\n", "every pod"),
    ("Kubernetes manifests", "deploy/kubernetes/standby/two-replicas.yaml", "path: /live", "path: /ready", "readiness"),
    ("Kubernetes manifests", "deploy/kubernetes/base/networkpolicy.yaml", '"Ingress", "Egress"', '"Ingress"', "direction"),
    ("Kubernetes manifests", "deploy/kubernetes/base/networkpolicy.yaml", "port: 9092", "port: 9095", "kafka.brokers"),
    ("Kubernetes manifests", "deploy/kubernetes/base/networkpolicy.yaml", "port: 7443", "port: 8080", "does not need"),
    ("Kubernetes manifests", "deploy/kubernetes/base/networkpolicy.yaml", '            matchExpressions:\n              - { key: app.kubernetes.io/name, operator: In, values: ["prometheus"] }\n', "            matchLabels:\n              app.kubernetes.io/name: prometheus\n", "Prometheus"),
    ("Kubernetes manifests", "deploy/kubernetes/base/networkpolicy.yaml", '        - ipBlock:\n            cidr: 0.0.0.0/0\n', "        - ipBlock:\n            block: 0.0.0.0/0\n", "block"),
    ("configurations in deploy/", "deploy/compose/casewire.toml", 'brokers = "', 'broker = "', "kafka.broker"),
    ("alert rules", "deploy/alerts.yaml", "casewire_data_loss_seconds) <", "casewire_data_loss_seconds <", "parse"),
    ("unit tests of the alert rules", "deploy/alerts.yaml", "casewire_data_loss_seconds) < 86400", "casewire_data_loss_seconds) < 3600", "CasewireDataLossNear"),
    ("unit tests of the alert rules", "deploy/alerts.yaml", "(casewire_stream_running) == 0", "(casewire_stream_running) == 2", "CasewireStreamDown"),
    ("Grafana dashboard", "deploy/grafana-dashboard.json", '"${datasource}"', '"P1809F7CD0C75ACF3"', "data source"),
    ("JSON Schema of the configuration", "config/casewire.toml", "# call_timeout = ", "# call_time = ", "call_time"),
]


def run(checks, place):
    missed = 0
    for number, (name, file, there, instead, word) in enumerate(SPOILT):
        copy = place.work / f"spoilt-{number}"
        for part in ["deploy", "config", "src", "proto", "benches"]:
            shutil.copytree(place.path(part), copy / part, ignore=shutil.ignore_patterns("target", "__pycache__"))
        for part in ["Dockerfile", ".dockerignore", "Cargo.toml", "Cargo.lock", "README.md", "LICENSE", "build.rs", ".commit"]:
            shutil.copy(place.path(part), copy / part)
        text = (copy / file).read_text(encoding="utf-8")
        if there not in text:
            print(f"MISSED {name}: {file} does not have {there!r} any more, so nothing was spoilt")
            missed += 1
            continue
        (copy / file).write_text(text.replace(there, instead), encoding="utf-8")
        spoilt = Place(copy, place.binary, Path(copy) / "work")
        spoilt.work.mkdir()
        try:
            complaints = checks[name](spoilt)
        except NotRun as reason:
            print(f"NOT RUN: {name}: {reason}")
            continue
        if any(word in complaint for complaint in complaints):
            print(f"ok     {name}: {file} with {instead.strip()!r} was noticed")
        elif spoilt.notes and not complaints:
            print(f"NOT RUN: {name}: {'; '.join(spoilt.taken_notes())}")
        else:
            print(f"MISSED {name}: {file} with {instead.strip()!r}: {complaints}")
            missed += 1
        shutil.rmtree(copy)
    return 1 if missed else 0
