"""The Kubernetes manifests, after kustomize: against the types of Kubernetes' own client, and against what casewire needs."""

import re

from kubernetes.client import models
from place import NotRun, documents, run

KINDS = {
    ("v1", "ConfigMap"): "V1ConfigMap",
    ("v1", "Secret"): "V1Secret",
    ("v1", "Service"): "V1Service",
    ("apps/v1", "Deployment"): "V1Deployment",
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


def check(place):
    complaints = typed(place.documents("deploy/kubernetes/base/secret.example.yaml"), "secret.example.yaml")
    for overlay, replicas, strategy, readiness in [("base", 1, "Recreate", "/ready"), ("standby", 2, "RollingUpdate", "/live")]:
        found, faults_found = objects(place, f"deploy/kubernetes/{overlay}")
        complaints += faults_found
        if found is not None:
            complaints += typed(found, overlay) or needs(found, overlay, replicas, strategy, readiness)
    return complaints
