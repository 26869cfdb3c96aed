"""Every custom resource has somebody who installs its kind, from a repository and into a namespace that the project allows."""

import re

import yaml
from conftest import ROOT
from objects import named

# The chart, or `by hand` (docs/deploy.md, step 5), that brings a group of kinds.
INSTALLED_BY = {
    "argoproj.io": "argo-rollouts",
    "autoscaling.k8s.io": "vpa",
    "clickhouse.altinity.com": "altinity-clickhouse-operator",
    "clickhouse-keeper.altinity.com": "altinity-clickhouse-operator",
    "external-secrets.io": "external-secrets",
    "kafka.strimzi.io": "strimzi-kafka-operator",
    "karpenter.k8s.aws": "by hand",
    "karpenter.sh": "by hand",
    "keda.sh": "keda",
    "monitoring.coreos.com": "kube-prometheus-stack",
    "networking.istio.io": "base",
    "redis.redis.opstreelabs.in": "redis-operator",
    "scylla.scylladb.com": "scylla-operator",
    "security.istio.io": "base",
    "telemetry.istio.io": "base",
    "velero.io": "velero",
}
KUBERNETES = {"", "admissionregistration.k8s.io", "apps", "batch", "networking.k8s.io", "policy", "rbac.authorization.k8s.io", "storage.k8s.io"}
# Asked for by one part of a chart, given by another.
ALSO = {"scylla-operator": "cert-manager", "istiod": "cni"}


def charts():
    generators = yaml.safe_load((ROOT / "argocd/operators.yaml").read_text())["spec"]["generators"]
    return {e["name"]: e for e in generators[0]["matrix"]["generators"][1]["list"]["elements"]}


def project():
    return yaml.safe_load((ROOT / "argocd/project.yaml").read_text())["spec"]


def problems(objects, installed):
    for group in sorted({o["apiVersion"].rpartition("/")[0] for o in objects} - KUBERNETES):
        chart = INSTALLED_BY.get(group)
        if chart != "by hand" and chart not in installed:
            yield f"nobody installs {group}"
    if any(o["spec"].get("backups") for o in named(objects, "ScyllaCluster")) and "scylla-manager" not in installed:
        yield "nobody makes the backups of ScyllaDB"
    yield from (f"{chart} needs {other}" for chart, other in ALSO.items() if chart in installed and other not in installed)


def test_every_kind_is_installed(rendered):
    assert list(problems(rendered("optional"), charts())) == []


def test_the_project_allows_what_is_installed_and_nothing_else():
    namespaces = {d["namespace"] for d in project()["destinations"]}
    assert {c["namespace"] for c in charts().values()} <= namespaces
    repositories = {c["repo"] for c in charts().values()}
    assert repositories == {r for r in project()["sourceRepos"] if not r.startswith("https://github.com/")}


def test_values_are_of_charts_that_are_installed_and_waves_go_up():
    overlays = {path.name for path in (ROOT / "k8s/overlays").iterdir()}
    for path in (ROOT / "argocd/values").glob("*.yaml"):
        names = [n for n in charts() if path.stem == n or any(path.stem == f"{n}-{o}" for o in overlays)]
        assert names, path.name
    waves = {name: int(c["wave"]) for name, c in charts().items()}
    assert all(waves[other] <= waves[chart] for chart, other in ALSO.items())


def test_scripts_speak_to_namespaces_that_are_there():
    text = "".join(path.read_text() for path in sorted((ROOT / "ops").glob("*.sh")))
    there = {d["namespace"] for d in project()["destinations"]}
    assert set(re.findall(r"kube -n ([a-z-]+)", text)) <= there


def test_the_bad_is_rejected(bad):
    assert list(problems(bad, {"istiod": {}, "scylla-operator": {}})) == [
        "nobody installs example.com",
        "nobody installs networking.istio.io",
        "nobody makes the backups of ScyllaDB",
        "scylla-operator needs cert-manager",
        "istiod needs cni",
    ]
