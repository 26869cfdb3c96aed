"""Every metric and label that a rule, a dashboard or a scaler uses is one that is really exported."""

import json
import re

import pytest
import yaml
from conftest import ROOT
from objects import named, where

# Labels that Prometheus and the ServiceMonitors give to every sample of ours.
TARGET = {"job", "namespace", "pod", "instance", "service"}
# From others: kube-state-metrics, the kubelet, Kong's plugin, the stores, Triton, OpenCost, Prometheus itself.
OTHERS = {
    "up": {"job"},
    "kube_pod_container_status_waiting_reason": {"namespace", "pod", "container", "reason"},
    "kube_cronjob_status_last_successful_time": {"namespace", "cronjob"},
    "kubelet_volume_stats_available_bytes": {"namespace", "persistentvolumeclaim"},
    "kubelet_volume_stats_capacity_bytes": {"namespace", "persistentvolumeclaim"},
    "kong_http_requests_total": {"service", "route", "code"},
    "kube_persistentvolume_capacity_bytes": {"persistentvolume"},
    # The stores', by the port of metrics of each.
    "kafka_server_brokertopicmetrics_bytesin_total": {"topic"},
    "kafka_server_replicamanager_underreplicatedpartitions": set(),
    "scylla_reactor_utilization": {"shard"},
    "scylla_transport_requests_served": {"shard"},
    "ClickHouseProfileEvents_Query": set(),
    "ClickHouseAsyncMetrics_ReplicasMaxAbsoluteDelay": set(),
    "ClickHouseAsyncMetrics_MaxPartCountForPartition": set(),
    "redis_memory_used_bytes": set(),
    "redis_memory_max_bytes": set(),
    "redis_evicted_keys_total": set(),
    # Triton's.
    "nv_inference_pending_request_count": {"model", "version"},
    # OpenCost's.
    "node_total_hourly_cost": {"node", "instance_type", "region"},
    "node_cpu_hourly_cost": {"node", "instance_type", "region"},
    "node_ram_hourly_cost": {"node", "instance_type", "region"},
    "pv_hourly_cost": {"persistentvolume", "volumename"},
    "container_cpu_allocation": {"node", "container"},
    "container_memory_allocation_bytes": {"node", "container"},
}
METRIC = re.compile(r"(?<![\w:.$])([A-Za-z_:][\w:]*)(?![\w:])\s*(?:\{([^}]*)\})?(?=\s*(?:\[|\)|,|$|[-+*/<>=)]|or\b|and\b|\{))")
WORDS = {
    "sum", "rate", "by", "le", "or", "and", "max", "min", "count", "vector", "absent", "time", "deriv", "histogram_quantile",
    "max_over_time", "predict_linear", "increase", "on", "ignoring", "without", "unless", "job", "service",
}  # fmt: skip


def exported():
    """Names with their labels, from the one place where they stand in the code."""
    text = (ROOT / "libs/telemetry/src/metrics.rs").read_text()
    out = {}
    for comment, name in re.findall(r"((?:^/// .*\n)+)^pub const \w+: &str = \"(\w+)\";", text, re.M):
        labels = set()
        for part in re.findall(r"Labels? ([^.]*)\.", comment) + re.findall(r"Events by `(\w+)`", comment):
            labels |= set(re.findall(r"`(\w+)`", part) or [part])
        out[name] = labels
    kinds = dict(re.findall(r"^    \((\w+), Kind::(\w+)", text, re.M))
    constants = dict(re.findall(r"^pub const (\w+): &str = \"(\w+)\";", text, re.M))
    for constant, kind in kinds.items():
        if kind == "Histogram":
            name = constants[constant]
            for suffix, more in (("_bucket", {"le"}), ("_count", set()), ("_sum", set())):
                out[name + suffix] = out[name] | more
    return out


def used(expression):
    """(name, labels) of an expression in PromQL; the labels of `by` count for all of its names."""
    grouped = {label.strip() for by in re.findall(r"\bby \(([^)]*)\)", expression) for label in by.split(",") if label.strip()}
    bare = re.sub(r"\b(by|on|group_left) \([^)]*\)", "", expression)
    for name, matchers in METRIC.findall(bare):
        if name not in WORDS:
            yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) | grouped


# What each pod tells of its slowest partition, and not as a share of anything.
SLOWEST = {"attribution_freshness_seconds"}


def problems(expressions, known):
    for place, expression in expressions:
        for name, labels in used(expression):
            if name not in known:
                yield f"{place}: nobody exports {name}"
            elif name in SLOWEST and re.search(rf"\bsum[^(]*\({name}", expression):
                yield f"{place}: {name} is of the slowest, so it is not to be summed"
            elif unknown := labels - known[name] - TARGET:
                yield f"{place}: {name} has no label {', '.join(sorted(unknown))}"


def rules():
    for file in ("slo", "causes"):
        for group in yaml.safe_load((ROOT / f"monitoring/{file}.yaml").read_text())["spec"]["groups"]:
            for rule in group["rules"]:
                yield rule.get("alert") or rule["record"], rule["expr"]


def panels():
    for path in sorted((ROOT / "monitoring/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]


def triggers(objects):
    for o in named(objects, "ScaledObject"):
        for trigger in o["spec"]["triggers"]:
            if trigger["type"] == "prometheus":
                yield where(o), trigger["metadata"]["query"]


@pytest.fixture(scope="module")
def known():
    recorded = {name: {"service", "job"} for name, _ in rules() if ":" in name}
    return exported() | OTHERS | recorded


def test_rules_and_dashboards_use_what_is_exported(known):
    assert list(problems([*rules(), *panels()], known)) == []


def analyses(objects):
    for o in named(objects, "AnalysisTemplate"):
        for metric in o["spec"]["metrics"]:
            yield where(o), metric["provider"]["prometheus"]["query"]


def test_scalers_and_canaries_use_what_is_exported(known, rendered):
    objects = rendered("optional")
    assert list(problems([*triggers(objects), *analyses(objects)], known)) == []


# The names that the public contract promises for alerts, dashboards and scalers.
CONTRACT = {
    "http_requests_total", "http_request_duration_seconds", "grpc_server_handled_total", "grpc_server_handling_seconds",
    "ingestion_events_total", "kafka_producer_queue_size", "attribution_queue_size", "attribution_latency_seconds",
    "attribution_freshness_seconds", "db_connection_pool_utilization", "ml_inference_duration_seconds", "build_info",
}  # fmt: skip


def test_every_metric_of_the_contract_is_exported_and_watched(known, prod):
    names = {name for _, e in [*rules(), *panels(), *triggers(prod)] for name, _ in used(e)}
    watched = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names} | names
    assert CONTRACT - set(known) == set()
    assert CONTRACT - watched == set()


def test_the_bad_is_rejected(known, bad):
    assert list(problems([(b["at"], b["expr"]) for b in bad], known)) == [
        "rule: nobody exports http_request_total",
        "rule: http_requests_total has no label code",
        "panel: nobody exports aws_cost_daily",
        "scaler: attribution_freshness_seconds is of the slowest, so it is not to be summed",
    ]
