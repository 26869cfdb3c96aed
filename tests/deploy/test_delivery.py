"""From a commit to a cluster: what is built is what is deployed, by digest, and each step names what is there."""

import re
import shutil
import subprocess

import pytest
import yaml
from conftest import CLUSTERS, ROOT
from objects import containers, named, namespace, where, workloads
from test_environment import SERVICES

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
# Mirrored into our registry by its digest, not built.
MIRRORED = {"kong", "triton"}


def built():
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    return set(release["jobs"]["image"]["strategy"]["matrix"]["service"])


def problems(objects, images):
    for o in workloads(objects):
        for container in containers(o):
            image = container["image"]
            if namespace(o) in ("databases", "monitoring"):
                if ":latest" in image or ":" not in image:
                    yield f"{where(o)}: {image} may be anything"
                continue
            match = re.fullmatch(r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com/attribution/([a-z-]+)@sha256:[0-9a-f]{64}", image)
            if not match:
                yield f"{where(o)}: {image} is not one of our registry by digest"
            elif match[1] not in images:
                yield f"{where(o)}: nobody builds {match[1]}"


def test_what_runs_is_what_is_built(cluster):
    assert list(problems(cluster, built() | MIRRORED)) == []


def test_the_bad_is_rejected(bad):
    assert list(problems(bad, {"ingestion"})) == [
        "Deployment ingestion/tagged: ingestion:v1.2.3 is not one of our registry by digest",
        "Deployment api/unknown: nobody builds web-app",
        "CronJob databases/backup: clickhouse/clickhouse-backup:latest may be anything",
    ]


def test_what_is_built_has_a_target_and_its_arguments_are_known():
    dockerfile = (ROOT / "Dockerfile").read_text()
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.M))
    assert set(SERVICES) <= targets & built()
    release = (ROOT / ".github/workflows/release.yml").read_text()
    given = set(re.findall(r"build-args: (\w+)=", release))
    assert given and given <= set(re.findall(r"^ARG (\w+)", dockerfile, re.M))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_actions_are_pinned_and_nothing_is_allowed_by_default(path):
    text = path.read_text()
    assert re.findall(r"uses: (?!\S+@[0-9a-f]{40}\b).*", text) == []
    workflow = yaml.safe_load(text)
    assert "permissions" in workflow and "concurrency" in workflow
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


def test_a_promotion_starts_no_release():
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    assert "k8s/overlays/**" in release[True]["push"]["paths-ignore"]


def test_promote_changes_one_digest(tmp_path):
    (tmp_path / "ops").mkdir()
    shutil.copy(ROOT / "ops/promote.sh", tmp_path / "ops")
    shutil.copytree(ROOT / "k8s/overlays/prod", tmp_path / "k8s/overlays/prod")
    file = tmp_path / "k8s/overlays/prod/kustomization.yaml"
    before, digest = file.read_text(), "sha256:" + "ab" * 32

    def promote(*arguments):
        return subprocess.run([tmp_path / "ops/promote.sh", *arguments], capture_output=True, text=True)

    for wrong in (["prod", "ingestion"], ["prod", "ingestion@sha256:12"], ["prod", f"web-app@{digest}"], ["nowhere", f"ingestion@{digest}"]):
        assert promote(*wrong).returncode != 0 and file.read_text() == before
    assert promote("prod", f"ingestion@{digest}").returncode == 0
    changed = [(a, b) for a, b in zip(before.splitlines(), file.read_text().splitlines()) if a != b]
    assert len(changed) == 1 and digest in changed[0][1] and "name: ingestion," in changed[0][1]


def test_argo_cd_knows_the_overlays_and_may_touch_their_namespaces(rendered):
    platform = yaml.safe_load((ROOT / "argocd/platform.yaml").read_text())
    selector = platform["spec"]["generators"][0]["clusters"]["selector"]["matchExpressions"][0]["values"]
    steps = [v for s in platform["spec"]["strategy"]["rollingSync"]["steps"] for v in s["matchExpressions"][0]["values"]]
    assert sorted(selector) == sorted(steps) == sorted(CLUSTERS)
    project = yaml.safe_load((ROOT / "argocd/project.yaml").read_text())["spec"]
    allowed = {d["namespace"] for d in project["destinations"]}
    kinds = {(k["group"], k["kind"]) for k in project["clusterResourceWhitelist"]}
    for o in rendered("optional"):
        group = o["apiVersion"].rpartition("/")[0]
        assert namespace(o) in allowed or (group, o["kind"]) in kinds or (group, "*") in kinds, where(o)


def test_only_admission_of_the_services_namespaces_is_by_digest(prod):
    """The policy that refuses tags is bound to all namespaces that run our images."""
    labelled = {o["metadata"]["name"] for o in named(prod, "Namespace") if o["metadata"]["labels"].get("attribution.dev/runs") == "services"}
    ours = {namespace(o) for o in workloads(prod) for c in containers(o) if "/attribution/" in c["image"]}
    assert ours <= labelled
