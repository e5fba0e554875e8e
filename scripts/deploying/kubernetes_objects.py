"""The Kubernetes manifests, after kustomize: against the types of Kubernetes' own client, and against what casewire needs."""

import re
import tomllib

from kubernetes.client import models
from place import NotRun, documents, run

KINDS = {
    ("v1", "ConfigMap"): "V1ConfigMap",
    ("v1", "Secret"): "V1Secret",
    ("v1", "Service"): "V1Service",
    ("apps/v1", "Deployment"): "V1Deployment",
    ("networking.k8s.io/v1", "NetworkPolicy"): "V1NetworkPolicy",
    ("policy/v1", "PodDisruptionBudget"): "V1PodDisruptionBudget",
}
PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float)}


def faults(value, wanted, path):
    """What does not fit between a value and a type of the client's model."""
    if wanted == "object":
        return []
    if inner := re.fullmatch(r"List\[(.+)\]", wanted):
        if not isinstance(value, list):
            return [f"{path} is no list"]
        return [fault for index, one in enumerate(value) for fault in faults(one, inner[1], f"{path}[{index}]")]
    if inner := re.fullmatch(r"Dict\[str, (.+)\]", wanted):
        if not isinstance(value, dict):
            return [f"{path} is no table"]
        return [fault for key, one in value.items() for fault in faults(one, inner[1], f"{path}.{key}")]
    if wanted in PLAIN:
        fits = isinstance(value, PLAIN[wanted]) and (wanted == "bool") == isinstance(value, bool)
        return [] if fits else [f"{path} is {value!r}, not of the type {wanted}"]
    model = getattr(models, wanted)
    if not isinstance(value, dict):
        return [f"{path} is no table"]
    names = {name: attribute for attribute, name in model.attribute_map.items()}
    found = [f"{path}.{key} does not exist" for key in value if key not in names]
    for key in value.keys() & names.keys():
        found += faults(value[key], model.openapi_types[names[key]], f"{path}.{key}")
    required = [model.attribute_map.get(attribute, field.alias) for attribute, field in model.model_fields.items() if field.is_required()]
    return found + [f"{path}.{name} is missing" for name in required if name not in value]


def objects(place, overlay):
    """What kustomize makes of an overlay."""
    for tool in (["kustomize", "build"], ["kubectl", "kustomize"]):
        try:
            code, said = run(*tool, place.path(overlay))
        except FileNotFoundError:
            continue
        if code != 0:
            return None, [f"{overlay}: {said.splitlines()[-1]}"]
        return documents(said), []
    raise NotRun("neither kustomize nor kubectl is installed")


def typed(found, where):
    complaints = []
    for one in found:
        kind = KINDS.get((one.get("apiVersion"), one.get("kind")))
        if kind is None:
            complaints.append(f"{where}: {one.get('apiVersion')} {one.get('kind')} is not expected here")
        else:
            complaints += faults(one, kind, f"{where}: {one['kind']}")
    return complaints


def needs(found, where, replicas, strategy, readiness):
    """What casewire needs of the objects together."""
    by_kind = {one["kind"]: one for one in found}
    spec = by_kind["Deployment"]["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    labels = spec["template"]["metadata"]["labels"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    budget = by_kind["PodDisruptionBudget"]["spec"]
    wanted = [
        (spec["replicas"] == replicas, f"there are {spec['replicas']} replicas, not {replicas}"),
        (spec["strategy"]["type"] == strategy, f"the strategy is {spec['strategy']['type']}, not {strategy}"),
        (container["livenessProbe"]["httpGet"]["path"] == "/live", "the liveness probe does not ask /live"),
        (container["readinessProbe"]["httpGet"]["path"] == readiness, f"the readiness probe does not ask {readiness}"),
        (pod["securityContext"].get("runAsNonRoot") is True, "it may run as root"),
        (container["securityContext"].get("readOnlyRootFilesystem") is True, "its root can be written to"),
        (container["securityContext"].get("allowPrivilegeEscalation") is False, "it may gain rights"),
        (container["securityContext"].get("capabilities", {}).get("drop") == ["ALL"], "it keeps capabilities"),
        ({"requests", "limits"} <= container.get("resources", {}).keys(), "it has no requests and limits"),
        (pod.get("terminationGracePeriodSeconds", 0) > 30, "it has no time for its orderly end"),
        (volumes["configuration"]["configMap"]["name"] in [one["metadata"]["name"] for one in found], "its ConfigMap is not there"),
        ("secret" in volumes["secret"], "its key is not of a Secret"),
        (all(volume["name"] in volumes for volume in container["volumeMounts"]), "it mounts what is not there"),
        (bool(budget["selector"].get("matchLabels")), "the disruption budget is for every pod of the namespace"),
        (budget["selector"].get("matchLabels", {}).items() <= labels.items(), "the disruption budget is for other pods"),
        (by_kind["Service"]["spec"]["selector"].items() <= labels.items(), "the service is for other pods"),
        (not re.search(r":latest$|^[^:]+$", container["image"]), f"the image {container['image']} has no tag"),
    ]
    return [f"{where}: {complaint}" for holds, complaint in wanted if not holds]


def peers(rules, side):
    """The values that the selectors of some rules name, by key."""
    found = {}
    for rule in rules:
        for peer in rule.get(side, []):
            for selector in ("podSelector", "namespaceSelector"):
                chosen = peer.get(selector) or {}
                for key, value in chosen.get("matchLabels", {}).items():
                    found.setdefault(key, set()).add(value)
                for expression in chosen.get("matchExpressions", []):
                    found.setdefault(expression["key"], set()).update(expression.get("values", []))
    return found


def reach(found, where):
    """What the network policy has to allow, and nothing beside it."""
    by_kind = {one["kind"]: one for one in found}
    policy, pod = by_kind["NetworkPolicy"]["spec"], by_kind["Deployment"]["spec"]["template"]
    [container] = pod["spec"]["containers"]
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    configuration = tomllib.loads(by_kind["ConfigMap"]["data"]["casewire.toml"])
    brokers = {int(broker.rsplit(":", 1)[1]) for broker in configuration["kafka"]["brokers"].split(",")}
    admin = named["admin"]
    egress, ingress = policy.get("egress", []), policy.get("ingress", [])
    out = {(one.get("protocol", "TCP"), one["port"]) for rule in egress for one in rule.get("ports", [])}
    into = {named.get(one["port"], one["port"]) for rule in ingress for one in rule.get("ports", [])}
    wanted = {("UDP", 53), ("TCP", 53), ("TCP", 443), ("TCP", 7443), ("TCP", admin)} | {("TCP", port) for port in brokers}
    selected = policy["podSelector"].get("matchLabels", {})
    checks = [
        (sorted(policy.get("policyTypes", [])) == ["Egress", "Ingress"], "the network policy leaves a direction open"),
        (bool(selected) and selected.items() <= pod["metadata"]["labels"].items(), "the network policy is for other pods"),
        (all(rule.get("to") and rule.get("ports") for rule in egress), "the network policy lets it go anywhere"),
        (all(rule.get("from") and rule.get("ports") for rule in ingress), "the network policy lets everybody in"),
        (out >= wanted, f"the network policy keeps it from {sorted(wanted - out)}, of which kafka.brokers may be one"),
        (out <= wanted, f"the network policy lets it out to {sorted(out - wanted)}, which it does not need"),
        (into == {admin}, f"the network policy lets others in at {sorted(into, key=str)}"),
        ("prometheus" in peers(ingress, "from").get("app.kubernetes.io/name", set()), "the network policy keeps Prometheus out"),
    ]
    return [f"{where}: {complaint}" for holds, complaint in checks if not holds]


def check(place):
    complaints = typed(place.documents("deploy/kubernetes/base/secret.example.yaml"), "secret.example.yaml")
    for overlay, replicas, strategy, readiness in [("base", 1, "Recreate", "/ready"), ("standby", 2, "RollingUpdate", "/live")]:
        found, faults_found = objects(place, f"deploy/kubernetes/{overlay}")
        complaints += faults_found
        if found is not None:
            complaints += typed(found, overlay) or needs(found, overlay, replicas, strategy, readiness) + reach(found, overlay)
    return complaints
