"""Where pods may run: each pool that is asked for exists, its taint is tolerated, and one of its nodes is large enough."""

from objects import named, quantity, strings, where

# Processors and GiB of an instance type, and what the kubelet, the system and the daemons of a node take of them.
INSTANCES = {
    "m7i.4xlarge": (16, 64), "m7i.8xlarge": (32, 128), "c7i.4xlarge": (16, 32), "c7i.8xlarge": (32, 64),
    "r7i.2xlarge": (8, 64), "r7i.4xlarge": (16, 128), "i4i.2xlarge": (8, 64), "i4i.4xlarge": (16, 128),
    "g6.xlarge": (4, 16), "g6.2xlarge": (8, 32),
}  # fmt: skip
TAKEN = (1, 4)
SIDECAR_CPUS = 0.5


def pod_specs(node):
    """All pod-like parts of an object, with the containers' resources they hold."""
    if isinstance(node, dict):
        if "tolerations" in node or "nodeSelector" in node or "containers" in node:
            yield node
        for value in node.values():
            yield from pod_specs(value)
    elif isinstance(node, list):
        for value in node:
            yield from pod_specs(value)


def requests(node):
    if isinstance(node, dict):
        if isinstance(node.get("requests"), dict) and "cpu" in node["requests"]:
            yield quantity(node["requests"]["cpu"]), quantity(node["requests"]["memory"]) / 2**30
        for value in node.values():
            yield from requests(value)
    elif isinstance(node, list):
        for value in node:
            yield from requests(value)


def problems(objects):
    pools = {o["metadata"]["name"]: o["spec"]["template"] for o in named(objects, "NodePool")}
    tainted = {name for name, t in pools.items() if t["spec"].get("taints")}
    sizes = {
        name: [INSTANCES[i] for r in t["spec"]["requirements"] if r["key"].endswith("instance-type") for i in r["values"]]
        for name, t in pools.items()
    }
    for o in objects:
        if o["kind"] == "NodePool":
            continue
        tolerated = set()
        for pod in pod_specs(o):
            for toleration in pod.get("tolerations", []):
                if toleration["key"] == "attribution.dev/pool":
                    tolerated.add(toleration["value"])
            wanted = pod.get("nodeSelector", {}).get("attribution.dev/pool")
            if wanted and wanted not in pools:
                yield f"{where(o)} wants the pool {wanted}, which is not there"
            if wanted in tainted and wanted not in tolerated:
                yield f"{where(o)} wants the pool {wanted} and does not tolerate its taint"
        yield from (f"{where(o)} tolerates the pool {name}, which is not there" for name in tolerated - set(pools))
        wants = list(requests(o.get("spec", {})))
        if not wants or o["kind"] == "CronJob":
            continue
        # The largest single one, beside a proxy: the parts of a custom resource are pods of their own.
        cpus, gib = max(c for c, _ in wants) + SIDECAR_CPUS, max(m for _, m in wants)
        nodes = [size for name in tolerated or {"general"} for size in sizes.get(name, [])]
        if not any(cpus <= c - TAKEN[0] and gib <= m - TAKEN[1] for c, m in nodes):
            yield f"{where(o)} asks for {cpus:g} processors and {gib:g} GiB, more than any node of {sorted(tolerated) or ['general']} has"
    for name in tainted:
        if not any(name in set(strings(o)) for o in objects if o["kind"] != "NodePool"):
            yield f"nobody tolerates the pool {name}"


def test_every_pod_fits_somewhere(cluster):
    assert list(problems(cluster)) == []


def test_the_bad_is_rejected(bad):
    assert list(problems(bad)) == [
        "Deployment api/web wants the pool high-performance, which is not there",
        "Deployment api/other wants the pool compute and does not tolerate its taint",
        "ClickHouseInstallation databases/attribution asks for 8.5 processors and 128 GiB, more than any node of ['general'] has",
    ]
