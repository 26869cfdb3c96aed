"""What infra/ makes is what the manifests count on: repositories, identities, buckets, zones, addresses."""

import re

import pytest
import yaml
from conftest import CLUSTERS, ROOT
from objects import containers, named, namespace, strings, workloads

# Accounts that operators make (Velero's is its chart's).
MADE_ACCOUNTS = {("databases", "attribution-member"), ("velero", "velero"), ("kube-system", "aws-node")}


def text():
    return "\n".join(path.read_text() for path in sorted((ROOT / "infra").glob("*.tf")))


def tfvars(name):
    return dict(re.findall(r"^(\w+)\s*=\s*(.*)$", (ROOT / f"infra/env/{name}.tfvars").read_text(), re.M))


def problems(objects, terraform):
    repositories = set(re.search(r'aws_ecr_repository" "this" \{\s*for_each\s*= toset\(var.registry \? \[(.*?)\]', terraform)[1].replace('"', "").split(", "))
    for o in workloads(objects):
        for container in containers(o):
            if match := re.search(r"amazonaws\.com/attribution/([a-z-]+)@", container["image"]):
                if match[1] not in repositories:
                    yield f"no repository for {match[1]}"
    accounts = {(namespace(o), o["metadata"]["name"]) for o in named(objects, "ServiceAccount")} | MADE_ACCOUNTS
    for ns, account in re.findall(r'namespace = "([\w-]+)", account = "([\w-]+)"', terraform):
        if ns != "kube-system" and (ns, account) not in accounts:
            yield f"a role is for {ns}/{account}, which nobody makes"
    for o in named(objects, "EC2NodeClass"):
        for selector in o["spec"]["subnetSelectorTerms"] + o["spec"]["securityGroupSelectorTerms"]:
            for key, value in selector["tags"].items():
                if not re.search(rf'"?{key}"?\s*=\s*"?{value}"?', terraform):
                    tag = f'key         = "{key}"' in terraform and f'value       = "{value}"' in terraform
                    if not tag:
                        yield f"nothing has the tag {key}={value}"


def test_the_manifests_find_what_they_count_on(cluster):
    assert list(problems(cluster, text())) == []


def bucket(kind, region, overlay):
    """As infra/ names it."""
    assert 'place   = "${var.region}${var.stage == "prod" ? "" : "-${var.stage}"}${var.suffix}"' in text()
    assert {"backups": "attribution-${each.key}-${local.place}", "logs": "attribution-logs-${local.place}"}[kind] in text()
    return f"attribution-{kind}-{region}" + ("-staging" if overlay == "staging" else "")


@pytest.mark.parametrize("overlay", CLUSTERS)
def test_zones_and_buckets_are_the_region_s(overlay, rendered):
    objects = rendered(overlay)
    region = next(o["spec"]["datacenter"]["name"] for o in named(objects, "ScyllaCluster"))
    there = tfvars("staging" if overlay == "staging" else f"prod-{region}")
    assert {z for z in re.findall(rf"{region}[a-c]", there["zones"])} == {s for o in objects for s in strings(o) if re.fullmatch(rf"{region}[a-c]", s)}
    buckets = {b for o in objects for s in strings(o) for b in re.findall(r"attribution-backups-[\w-]+", s)}
    assert buckets == {bucket("backups", region, overlay)}
    logs = yaml.safe_load((ROOT / f"argocd/values/loki-{overlay}.yaml").read_text())["loki"]["storage"]
    assert set(logs["bucketNames"].values()) == {bucket("logs", region, overlay)} and logs["s3"]["region"] == region


def test_logs_go_where_they_are_read_and_their_role_is_loki_s():
    values = {name: yaml.safe_load((ROOT / f"argocd/values/{name}.yaml").read_text()) for name in ("alloy", "loki", "kube-prometheus-stack")}
    (source,) = (s for s in values["kube-prometheus-stack"]["grafana"]["additionalDataSources"] if s["type"] == "loki")
    assert f'url = "{source["url"]}/loki/api/v1/push"' in values["alloy"]["alloy"]["configMap"]["content"]
    assert f'service_account = "{values["loki"]["serviceAccount"]["name"]}"' in text()
    # Loki deletes before the bucket does.
    hours = int(values["loki"]["loki"]["limits_config"]["retention_period"].removesuffix("h"))
    days = int(re.search(r'"logs" \{\s*bucket.*?expiration \{\s*days = (\d+)', text(), re.S)[1])
    assert hours / 24 < days


def test_one_cluster_of_a_region_makes_its_repositories():
    files = [tfvars(path.stem) for path in (ROOT / "infra/env").glob("*.tfvars")]
    made = [there["region"] for there in files if there.get("registry") == "true"]
    assert len(made) == len(set(made)) and set(made) == {there["region"] for there in files}


def test_copies_are_in_another_region():
    files = [tfvars(path.stem) for path in (ROOT / "infra/env").glob("*.tfvars")]
    assert all(there.get("replicate_to") != there["region"] for there in files)
    assert all("replicate_to" in there for there in files if there["stage"] == '"prod"')


def test_networks_do_not_overlap():
    blocks = [tfvars(path.stem)["cidr"] for path in (ROOT / "infra/env").glob("*.tfvars")]
    assert len(set(blocks)) == len(blocks)


def test_the_plan_has_the_addresses_of_the_module():
    import sys

    sys.path.insert(0, str(ROOT / "ops"))
    import plan

    assert plan.ADDRESSES // plan.ADDRESSES_PER_NODE == 1535, "infra/modules/addresses says 1535 in its test"


def test_the_bad_is_rejected(bad):
    assert list(problems(bad, text())) == ["no repository for web-app", "nothing has the tag attribution/tier=databases"]
