#!/usr/bin/env python3
"""Writes what follows from a list: the burn rates of the objectives (slo.yaml) and the dashboards (dashboards/*.json).

A test holds the committed files equal to this. `monitoring/generate.py --check` says so by its exit code.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
RUNBOOK = "https://github.com/attribution/attribution/blob/main/docs/runbooks.md"

# Window pairs of the SRE workbook (chapter 5): burn rate, long and short window, severity.
BURNS = [(14.4, "1h", "5m", "page"), (6, "6h", "30m", "page"), (3, "1d", "2h", "ticket"), (1, "3d", "6h", "ticket")]
WINDOWS = ["5m", "30m", "1h", "2h", "6h", "1d", "3d"]
GRPC_FAULTS = "Unknown|DeadlineExceeded|Internal|Unavailable|DataLoss"

# Name, objective, share of bad ones in a window by service, alert, summary.
OBJECTIVES = [
    (
        "availability",
        0.9995,
        'sum by (service) (\n'
        '  rate(http_requests_total{{status=~"5.."}}[{w}])\n'
        '  or rate(grpc_server_handled_total{{grpc_code=~"' + GRPC_FAULTS + '"}}[{w}])\n'
        '  or 0 * rate(http_requests_total[{w}])\n'
        '  or 0 * rate(grpc_server_handled_total[{w}])\n'
        ')\n/\nsum by (service) (rate(http_requests_total[{w}]) or rate(grpc_server_handled_total[{w}]))',
        "requests answered by a fault of ours",
    ),
    (
        "attribution_latency",
        0.95,
        '1 - sum by (job) (rate(attribution_latency_seconds_bucket{{le="0.05"}}[{w}]))\n'
        "/ sum by (job) (rate(attribution_latency_seconds_count[{w}]))",
        "decisions that took longer than 50 ms",
    ),
    (
        "query_latency",
        0.95,
        '1 - sum by (service) (rate(http_request_duration_seconds_bucket{{service="query-api",le="0.1"}}[{w}]))\n'
        '/ sum by (service) (rate(http_request_duration_seconds_count{{service="query-api"}}[{w}]))',
        "answers of the query API that took longer than 100 ms",
    ),
]


def indent(text, by):
    return "\n".join(" " * by + line for line in text.splitlines())


def slo():
    out = [
        "# Written by generate.py. Objectives as multi-window burn rates: a page when the budget of 30 days would be gone",
        "# in two or five days, a ticket when it would be gone in ten or thirty.",
        "apiVersion: monitoring.coreos.com/v1",
        "kind: PrometheusRule",
        "metadata:",
        "  name: objectives",
        "  namespace: monitoring",
        "spec:",
        "  groups:",
    ]
    for name, _, ratio, _ in OBJECTIVES:
        out += [f"    - name: {name}", "      interval: 30s", "      rules:"]
        for window in WINDOWS:
            expression = ratio.format(w=window)
            out += [f"        - record: slo:{name}:bad_ratio_rate{window}", "          expr: |", indent(expression, 12)]
    out += ["    - name: burn-rates", "      rules:"]
    for name, objective, _, what in OBJECTIVES:
        alert = "".join(part.capitalize() for part in name.split("_")) + "Burn"
        for rate, long, short, severity in BURNS:
            bound = f"{rate} * {round(1 - objective, 6)}"
            out += [
                f"        - alert: {alert}{long.capitalize()}",
                "          expr: |",
                f"            slo:{name}:bad_ratio_rate{long} > {bound}",
                f"            and slo:{name}:bad_ratio_rate{short} > {bound}",
                "          for: 2m",
                "          labels:",
                f"            severity: {severity}",
                f"            objective: {name}",
                "          annotations:",
                f"            summary: \"{{{{ $value | humanizePercentage }}}} of {what}, {rate} times what the objective allows\"",
                f"            runbook_url: {RUNBOOK}#{name.replace('_', '-')}",
            ]
    return "\n".join(out) + "\n"


def panel(title, unit, *queries):
    """A panel of time series; a query is an expression and its legend."""
    return title, unit, queries


RATE = "[$__rate_interval]"
HOURS = 730  # of a month
DASHBOARDS = {
    "ingestion": (
        "Ingestion",
        [
            panel("Events by result", "cps", (f"sum by (result) (rate(ingestion_events_total{RATE}))", "{{result}}")),
            panel("Requests by status", "reqps", (f'sum by (status) (rate(http_requests_total{{service="ingestion"}}{RATE}))', "{{status}}")),
            panel("Calls by code", "reqps", (f'sum by (grpc_code) (rate(grpc_server_handled_total{{service="ingestion"}}{RATE}))', "{{grpc_code}}")),
            panel("P95 and P99 of a request", "s",
                  *((f'histogram_quantile({q}, sum by (le) (rate(http_request_duration_seconds_bucket{{service="ingestion"}}{RATE})))', f"{q}") for q in (0.95, 0.99))),
            panel("Events waiting for the log", "short", ('sum(kafka_producer_queue_size)', "waiting")),
            panel("Refused keys", "cps", (f"sum by (reason) (rate(authentication_failures_total{RATE}))", "{{reason}}")),
        ],
    ),
    "attribution": (
        "Attribution",
        [
            panel("Events not yet attributed", "short", ("sum(attribution_queue_size)", "waiting")),
            panel("Behind the log", "s", ("max(attribution_freshness_seconds)", "oldest")),
            panel("From conversion to decision", "s",
                  *((f"histogram_quantile({q}, sum by (le) (rate(attribution_latency_seconds_bucket{RATE})))", f"{q}") for q in (0.5, 0.95, 0.99))),
            panel("Decisions", "cps", (f"sum(rate(attribution_latency_seconds_count{RATE}))", "decisions")),
        ],
    ),
    "query": (
        "Query API",
        [
            panel("Requests by route", "reqps", (f'sum by (route) (rate(http_requests_total{{service="query-api"}}{RATE}))', "{{route}}")),
            panel("P95 by route", "s", (f'histogram_quantile(0.95, sum by (le, route) (rate(http_request_duration_seconds_bucket{{service="query-api"}}{RATE})))', "{{route}}")),
            panel("P95 by method", "s", (f'histogram_quantile(0.95, sum by (le, grpc_method) (rate(grpc_server_handling_seconds_bucket{{service="query-api"}}{RATE})))', "{{grpc_method}}")),
            panel("Used places for reports", "percentunit", ("max by (store) (db_connection_pool_utilization)", "{{store}}")),
        ],
    ),
    "models": (
        "Models",
        [
            panel("Calls by model", "cps", (f"sum by (model, version) (rate(ml_inference_duration_seconds_count{RATE}))", "{{model}} {{version}}")),
            panel("P95 by model", "s", (f"histogram_quantile(0.95, sum by (le, model) (rate(ml_inference_duration_seconds_bucket{RATE})))", "{{model}}")),
        ],
    ),
    "stores": (
        "Stores",
        [
            panel("Kafka: bytes in", "Bps", (f"sum(rate(kafka_server_brokertopicmetrics_bytesin_total{RATE}))", "bytes")),
            panel("Kafka: partitions without all replicas", "short", ("sum(kafka_server_replicamanager_underreplicatedpartitions)", "partitions")),
            panel("ScyllaDB: load of the busiest shard of a node", "percent", ("max by (instance) (scylla_reactor_utilization)", "{{instance}}")),
            panel("ScyllaDB: requests", "reqps", (f"sum(rate(scylla_transport_requests_served{RATE}))", "requests")),
            panel("ClickHouse: queries", "reqps", (f"sum(rate(ClickHouseProfileEvents_Query{RATE}))", "queries")),
            panel("ClickHouse: a replica is behind", "s", ("max by (pod) (ClickHouseAsyncMetrics_ReplicasMaxAbsoluteDelay)", "{{pod}}")),
            panel("ClickHouse: parts of the fullest partition", "short", ("max by (pod) (ClickHouseAsyncMetrics_MaxPartCountForPartition)", "{{pod}}")),
            panel("Redis: used memory", "percentunit", ("max by (pod) (redis_memory_used_bytes / redis_memory_max_bytes)", "{{pod}}")),
            panel("Redis: keys that were evicted", "cps", (f"sum(rate(redis_evicted_keys_total{RATE}))", "keys")),
            panel("Volumes: free", "percentunit",
                  ('min by (persistentvolumeclaim) (kubelet_volume_stats_available_bytes{namespace="databases"} / kubelet_volume_stats_capacity_bytes{namespace="databases"})', "{{persistentvolumeclaim}}")),
        ],
    ),
    "cost": (
        "Cost",
        [
            panel("Nodes by instance type, a month", "currencyUSD", (f"sum by (instance_type) (node_total_hourly_cost) * {HOURS}", "{{instance_type}}")),
            panel("Volumes, a month", "currencyUSD",
                  (f"sum(pv_hourly_cost * on (persistentvolume) group_left () max by (persistentvolume) (kube_persistentvolume_capacity_bytes)) / 1e9 * {HOURS}", "volumes")),
            panel("Processors by namespace, a month", "currencyUSD",
                  (f"sum by (namespace) (container_cpu_allocation * on (node) group_left () max by (node) (node_cpu_hourly_cost)) * {HOURS}", "{{namespace}}")),
            panel("Memory by namespace, a month", "currencyUSD",
                  (f"sum by (namespace) (container_memory_allocation_bytes * on (node) group_left () max by (node) (node_ram_hourly_cost)) / 1e9 * {HOURS}", "{{namespace}}")),
            panel("Nodes for a million events", "currencyUSD",
                  ('sum(node_total_hourly_cost) / (sum(rate(ingestion_events_total{result="accepted"}[1h])) * 3600) * 1e6', "a million events")),
        ],
    ),
    "objectives": (
        "Error budgets",
        [
            panel("Availability: budget burnt, times the allowed", "short", ("slo:availability:bad_ratio_rate1h / 0.0005", "{{service}}")),
            panel("Attribution under 50 ms: budget burnt, times the allowed", "short", ("slo:attribution_latency:bad_ratio_rate1h / 0.05", "attribution")),
            panel("Query under 100 ms: budget burnt, times the allowed", "short", ("slo:query_latency:bad_ratio_rate1h / 0.05", "query")),
            panel("Versions running", "short", ("count by (version, git) (build_info)", "{{version}} {{git}}")),
        ],
    ),
}


def dashboard(uid, title, panels):
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "uid": f"attribution-{uid}",
        "title": title,
        "tags": ["attribution"],
        "schemaVersion": 41,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "utc",
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}]},
        "panels": [
            {
                "id": index + 1,
                "type": "timeseries",
                "title": name,
                "datasource": source,
                "gridPos": {"h": 8, "w": 12, "x": 12 * (index % 2), "y": 8 * (index // 2)},
                "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
                "targets": [
                    {"refId": chr(65 + n), "datasource": source, "expr": expression, "legendFormat": legend}
                    for n, (expression, legend) in enumerate(queries)
                ],
            }
            for index, (name, unit, queries) in enumerate(panels)
        ],
    }


def files():
    yield HERE / "slo.yaml", slo()
    for uid, (title, panels) in DASHBOARDS.items():
        yield HERE / "dashboards" / f"{uid}.json", json.dumps(dashboard(uid, title, panels), indent=2) + "\n"


def main():
    stale = []
    for path, text in files():
        if "--check" in sys.argv:
            if not path.exists() or path.read_text() != text:
                stale.append(path)
        else:
            path.write_text(text)
    if stale:
        sys.exit(f"not what generate.py writes: {', '.join(map(str, stale))}; run it")


if __name__ == "__main__":
    main()
