"""A node can always be drained, and a pod always ends in time."""

import math
import re

from conftest import ROOT
from objects import matches, named, namespace, template, where


def drain_seconds():
    text = (ROOT / "libs/service/src/limits.rs").read_text()
    return int(re.search(r"drain_seconds_max: (\d+)", text)[1])


def problems(objects, drain):
    least = {(namespace(o), o["spec"]["scaleTargetRef"]["name"]): o["spec"]["minReplicaCount"] for o in named(objects, "ScaledObject")}
    for budget in named(objects, "PodDisruptionBudget"):
        spec = budget["spec"]
        for o in named(objects, "Deployment"):
            labels = template(o)["metadata"]["labels"]
            if namespace(o) != namespace(budget) or not matches(spec["selector"], labels):
                continue
            # Where nothing is left there is nothing to drain.
            replicas = max(1, least.get((namespace(o), o["metadata"]["name"]), o["spec"].get("replicas", 1)))
            share = str(spec.get("maxUnavailable", spec.get("minAvailable")))
            number = math.ceil(replicas * int(share[:-1]) / 100) if share.endswith("%") else int(share)
            if (number if "maxUnavailable" in spec else replicas - number) < 1:
                yield f"{where(budget)} lets none of {replicas} pods go"
    for o in named(objects, "Deployment"):
        pod = template(o)["spec"]
        for container in pod["containers"]:
            sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            grace = pod.get("terminationGracePeriodSeconds", 30)
            if sleep and grace <= sleep + drain:
                yield f"{where(o)} is killed after {grace} s, but sleeps {sleep} s and drains {drain} s"


def test_nodes_can_be_drained(overlay):
    assert list(problems(overlay, drain_seconds())) == []


def test_the_bad_is_rejected(bad):
    assert list(problems(bad, 30)) == [
        "PodDisruptionBudget ingestion/ingestion lets none of 3 pods go",
        "Deployment ingestion/ingestion is killed after 30 s, but sleeps 15 s and drains 30 s",
    ]
