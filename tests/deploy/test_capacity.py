"""Capacity is arithmetic: the components are what ops/plan.py says, and fit the pools and the addresses."""

import re
import sys
import tomllib

import pytest
from conftest import ROOT, render
from objects import containers, named, namespace, quantity, template

sys.path.insert(0, str(ROOT / "ops"))
import plan  # noqa: E402

PRICES = tomllib.loads((ROOT / "ops/prices.toml").read_text())


@pytest.mark.parametrize("level", plan.LEVELS)
def test_the_components_are_what_the_plan_says(level):
    written = (ROOT / "k8s/components/capacity" / level / "kustomization.yaml").read_text()
    assert written == plan.component(level, plan.plan(*plan.LEVELS[level], PRICES)), "run ops/plan.py --write"


@pytest.mark.parametrize("level", plan.LEVELS)
def test_the_nodes_have_addresses_and_the_stores_a_pool(level, prod):
    p = plan.plan(*plan.LEVELS[level], PRICES)
    assert p.nodes * plan.ADDRESSES_PER_NODE <= plan.ADDRESSES
    (pool,) = (o for o in named(prod, "NodePool") if o["metadata"]["name"] == "storage")
    # Sixteen processors each: i4i.4xlarge and r7i.4xlarge.
    assert p.store_nodes * 16 <= quantity(pool["spec"]["limits"]["cpu"])


def test_a_batch_shares_what_a_request_costs():
    cpu = plan.Cpu()
    assert [cpu.ingestion(1), cpu.ingestion(plan.BATCH_EVENTS)] == pytest.approx([cpu.single, cpu.batch])
    assert cpu.ingestion(10_000) < cpu.batch


def test_a_run_of_the_benchmark_takes_the_place_of_published_figures():
    rows = [{"key": "http-batch", "cpu_seconds_per_operation": 1e-6}, {"key": "markov", "cpu_seconds_per_operation": 1}]
    assert plan.Cpu.of({"rows": rows}) == plan.Cpu(batch=1e-6)


def test_the_plan_counts_on_nothing_better_than_what_is_published():
    page = (ROOT / "docs/performance.md").read_text()
    per_second = int(re.search(r"^\| http-batch \|.*?events/CPU-s \| ([\d ]+) \|", page, re.M)[1].replace(" ", ""))
    assert plan.INGESTION_BATCH_CPU_SECONDS >= 1 / per_second
    for row, seconds in (("http-single", plan.INGESTION_SINGLE_CPU_SECONDS), ("pipeline", plan.ATTRIBUTION_CPU_SECONDS)):
        said = [float(value) for value in re.findall(rf"^\| {row} \|.*\| ([\d.]+) µs \| [^|]* \|$", page, re.M)]
        assert seconds * 1e6 >= max(said), row


def problems(objects):
    """Pools whose limit of processors is under the requests of all pods at their most."""
    most = {(namespace(o), o["spec"]["scaleTargetRef"]["name"]): o["spec"]["maxReplicaCount"] for o in named(objects, "ScaledObject")}
    asked = {}
    for o in named(objects, "Deployment"):
        pool = template(o)["spec"].get("nodeSelector", {}).get("attribution.dev/pool", "general")
        cpus = sum(quantity(c["resources"]["requests"]["cpu"]) for c in containers(o)) + plan.SIDECAR_CPUS
        replicas = most.get((namespace(o), o["metadata"]["name"]), o["spec"].get("replicas", 1))
        asked[pool] = asked.get(pool, 0) + cpus * replicas
    for o in named(objects, "NodePool"):
        limit, name = quantity(o["spec"]["limits"]["cpu"]), o["metadata"]["name"]
        if asked.get(name, 0) > limit:
            yield f"pool {name}: {asked[name]:g} processors are asked for at most, its limit is {limit:g}"


def test_the_pools_are_large_enough_at_the_peak():
    peak = ROOT / ".tools/peak"
    peak.mkdir(parents=True, exist_ok=True)
    (peak / "kustomization.yaml").write_text(
        "resources: [../../k8s/overlays/prod]\ncomponents: [../../k8s/components/capacity/peak]\n"
    )
    assert list(problems(render(".tools/peak"))) == []


def test_the_bad_is_rejected(bad):
    assert list(problems(bad)) == ["pool high-perf: 675 processors are asked for at most, its limit is 320"]
