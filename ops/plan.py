#!/usr/bin/env python3
"""How much of everything a load needs, and what that costs: `ops/plan.py --events-per-second 1e6 --events-per-month 100e9`.

`ops/plan.py --level high` prints a row of the scaling table, `--specification` what of its figures does not add up,
and `--write` writes the patches of k8s/components/capacity, which a test holds equal to this arithmetic.
`--batch` says how many events clients send at a time, and `--report target/bench/report.json` takes the processor seconds
from a run of `make bench` instead of the published ones.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOURS = 730
GIB = 2**30

# Measured (docs/performance.md): processor seconds and bytes of an event, on loaded virtual cores, over the embedded stores:
# over Kafka, Redis and CQL both services take more.
BATCH_EVENTS = 100
INGESTION_BATCH_CPU_SECONDS = 1 / 320_000  # of an event in a batch of 100
INGESTION_SINGLE_CPU_SECONDS = 41e-6  # of an event alone
ATTRIBUTION_CPU_SECONDS = 102e-6  # of the whole pipeline, behind 10 million events
QUERY_CPU_SECONDS = 0.05
LOG_BYTES = 101
JOURNEY_BYTES = 1_052
WAREHOUSE_BYTES = 157

# Assumed, until it is measured on a cluster.
UTILIZATION = 0.5  # of a pod's processors at the target
JOURNEY_COMPRESSION = 0.4  # ScyllaDB's tables against the embedded store's
BROKER_BYTES_PER_SECOND = 150e6  # taken in by one broker, replication included
SIDECAR_CPUS = 0.5

LOG_DAYS, JOURNEY_MONTHS, WAREHOUSE_MONTHS = 7, 3, 13
LOG_REPLICAS = JOURNEY_REPLICAS = 3
WAREHOUSE_REPLICAS = 2
DISK_FILL = 0.7

INGESTION_CPUS = ATTRIBUTION_CPUS = 4
QUERY_CPUS = 2
COMPUTE_NODE_CPUS = 31.85 - 1.0  # a c7i.8xlarge without what the kubelet and the daemons take
GENERAL_NODE_CPUS = 15.89 - 1.0  # an m7i.4xlarge
SCYLLA_NODE_BYTES = 3_750e9  # the local disks of an i4i.4xlarge
ADDRESSES_PER_NODE = 32  # two prefixes of 16 for each node (prefix delegation)
ADDRESSES = 3 * (2**14 - 5)  # three subnets of /18

# Stores of a lost region are sized to be back within these hours (docs/deploy.md): to decide, to make the cluster anew, to
# bring journey store and warehouse back side by side, and to catch up. The first two and the last are allowances, not measured.
RECOVERY_HOURS = 4
DECIDE_HOURS, BUILD_HOURS, CATCH_UP_HOURS = 1, 0.75, 0.25
RESTORE_SECONDS_MAX = (RECOVERY_HOURS - DECIDE_HOURS - BUILD_HOURS - CATCH_UP_HOURS) * 3600
VOLUME_BYTES_PER_SECOND = 500 * 2**20  # of a volume of class gp3 (k8s/base/namespaces/storageclass.yaml)
JOURNEY_NODE_BYTES_PER_SECOND = 400e6  # assumed: of a node that takes its tables from S3

# The scaling table of the specification, with the months of its three phases (peak: the last one).
LEVELS = {
    "low": (10e3, 1e3, 100e6 * 30),
    "medium": (100e3, 10e3, 1e9 * 30),
    "high": (1e6, 50e3, 100e9),
    "peak": (10e6, 200e3, 10e9 * 30),
}
# Dollars a month of its phases, by the level that has their events a month.
SPECIFIED_DOLLARS = {"low": ("startup", 23e3), "medium": ("growth", 143e3), "peak": ("scale", 570e3)}
SPECIFIED_PODS = {"low": (6, 4, 6), "medium": (20, 15, 15), "high": (50, 40, 35), "peak": (150, 120, 100)}


@dataclasses.dataclass
class Cpu:
    """Processor seconds of an event."""

    batch: float = INGESTION_BATCH_CPU_SECONDS
    single: float = INGESTION_SINGLE_CPU_SECONDS
    attribution: float = ATTRIBUTION_CPU_SECONDS

    def ingestion(self, batch):
        """What a request costs is shared by its events."""
        request = (self.single - self.batch) / (1 - 1 / BATCH_EVENTS)
        return self.single - request * (1 - 1 / batch)

    @staticmethod
    def of(report):
        """From the rows of a run of the benchmark; one that was left out keeps its published figure."""
        seconds = {row["key"]: row["cpu_seconds_per_operation"] for row in report["rows"] if row["cpu_seconds_per_operation"]}
        rows = {"batch": "http-batch", "single": "http-single", "attribution": "pipeline"}
        return Cpu(**{field: seconds[key] for field, key in rows.items() if key in seconds})


@dataclasses.dataclass
class Plan:
    ingestion: int
    attribution: int
    query: int
    brokers: int
    broker_gib: int
    scylla_per_zone: int
    scylla_gib: int
    shards: int
    shard_gib: int
    compute_nodes: int
    general_nodes: int
    store_nodes: int
    dollars: dict

    @property
    def restore_seconds(self):
        """Until journey store and warehouse are back, side by side."""
        warehouse = self.shard_gib * GIB * DISK_FILL / VOLUME_BYTES_PER_SECOND
        journeys = self.scylla_gib * GIB * DISK_FILL / JOURNEY_NODE_BYTES_PER_SECOND
        return max(warehouse, journeys)

    @property
    def nodes(self):
        return self.compute_nodes + self.general_nodes + self.store_nodes


def up(value, step=1):
    return math.ceil(value / step) * step


def pods(cpu_seconds, cpus):
    """At least three, one for each zone."""
    return max(3, math.ceil(cpu_seconds / (cpus * UTILIZATION)))


def plan(events, requests, month, prices, batch=BATCH_EVENTS, cpu=Cpu()):
    ingestion = pods(events * cpu.ingestion(batch), INGESTION_CPUS)
    attribution = pods(events * cpu.attribution, ATTRIBUTION_CPUS)
    # One request of fifty is a report; the others are single look-ups and events.
    query = pods(requests / 50 * QUERY_CPU_SECONDS, QUERY_CPUS)
    mean = month / (30 * 86_400)
    log_bytes = mean * LOG_DAYS * 86_400 * LOG_BYTES * LOG_REPLICAS / DISK_FILL
    brokers = up(max(3, events * LOG_BYTES * LOG_REPLICAS / BROKER_BYTES_PER_SECOND, log_bytes / (4_000 * GIB)), 3)
    journey_bytes = month * JOURNEY_MONTHS * JOURNEY_BYTES * JOURNEY_COMPRESSION * JOURNEY_REPLICAS / DISK_FILL
    scylla_per_zone = max(1, math.ceil(journey_bytes / SCYLLA_NODE_BYTES / 3))
    warehouse_bytes = month * WAREHOUSE_MONTHS * WAREHOUSE_BYTES / DISK_FILL
    shards = max(3, math.ceil(warehouse_bytes * DISK_FILL / (VOLUME_BYTES_PER_SECOND * RESTORE_SECONDS_MAX)))
    scylla_gib = min(3_400, up(journey_bytes / scylla_per_zone / 3 / GIB, 100))
    broker_gib = max(100, up(log_bytes / brokers / GIB, 100))
    shard_gib = max(100, up(warehouse_bytes / shards / GIB, 100))
    per_node = int(COMPUTE_NODE_CPUS // (INGESTION_CPUS + SIDECAR_CPUS))
    compute = up((ingestion + attribution) / per_node, 3)
    general = up((query * (QUERY_CPUS + SIDECAR_CPUS) + 24) / GENERAL_NODE_CPUS, 3)
    warehouse_nodes = shards * WAREHOUSE_REPLICAS
    stores = 3 * scylla_per_zone + brokers + warehouse_nodes
    hour, gigabyte = prices["hour"], prices["gigabyte_month"]
    nodes = {
        "compute": compute * hour["c7i.8xlarge"],
        "general": general * hour["m7i.4xlarge"] + hour["eks_cluster"],
        "scylla": 3 * scylla_per_zone * hour["i4i.4xlarge"],
        "kafka": brokers * hour["r7i.4xlarge"],
        "clickhouse": warehouse_nodes * hour["r7i.4xlarge"],
        "redis": 3 * hour["r7i.2xlarge"],
    }
    dollars = {name: value * HOURS for name, value in nodes.items()}
    disks = brokers * broker_gib + warehouse_nodes * shard_gib
    dollars["disks"] = disks * gigabyte["gp3"]
    # Every event crosses zones twice to Kafka's followers, and two of three times to each store and back.
    dollars["between zones"] = month * (LOG_BYTES * 3 + JOURNEY_BYTES) / 1e9 * prices["gigabyte"]["between_zones"]
    return Plan(
        ingestion, attribution, query, brokers, broker_gib, scylla_per_zone, scylla_gib,
        shards, shard_gib, compute, general, stores + 3, dollars,
    )  # fmt: skip


def component(level, p):
    """The patches of a load level: only what differs from the components of the stores and the scalers."""
    def replace(path, value):
        return f"      - {{op: replace, path: {path}, value: {value}}}"

    def patch(kind, name, *lines):
        return [f"  - target: {{kind: {kind}, name: {name}}}", "    patch: |-", *lines]

    def scaled(name, most):
        least = max(3, math.ceil(most / 4))
        return patch("ScaledObject", name, replace("/spec/minReplicaCount", least), replace("/spec/maxReplicaCount", most))

    racks = "/spec/datacenter/racks"
    storage = "/spec/templates/volumeClaimTemplates/0/spec/resources/requests/storage"
    lines = [
        f"# {LEVELS[level][0]:,.0f} events a second. Written by ops/plan.py --write; a test holds the two equal.",
        "apiVersion: kustomize.config.k8s.io/v1alpha1",
        "kind: Component",
        "patches:",
        *scaled("ingestion", p.ingestion * 2),
        *scaled("attribution-engine", p.attribution * 2),
        *scaled("query-api", p.query * 2),
        *patch("KafkaNodePool", "broker", replace("/spec/replicas", p.brokers), replace("/spec/storage/volumes/0/size", f"{p.broker_gib}Gi")),
        *patch("ScyllaCluster", "attribution", *(replace(f"{racks}/{i}/members", p.scylla_per_zone) for i in range(3)),
               *(replace(f"{racks}/{i}/storage/capacity", f"{p.scylla_gib}Gi") for i in range(3))),
        *patch("ClickHouseInstallation", "attribution", replace("/spec/configuration/clusters/0/layout/shardsCount", p.shards), replace(storage, f"{p.shard_gib}Gi")),
    ]
    return "\n".join(lines) + "\n"


def show(name, p):
    print(f"{name}: {p.nodes} nodes, {p.nodes * ADDRESSES_PER_NODE:,} of {ADDRESSES:,} addresses")
    for field in ("ingestion", "attribution", "query"):
        print(f"  {field:<12} {getattr(p, field):>6} pods")
    print(f"  kafka        {p.brokers:>6} brokers of {p.broker_gib:,} GiB")
    print(f"  scylla       {3 * p.scylla_per_zone:>6} nodes of {p.scylla_gib:,} GiB")
    print(f"  clickhouse   {p.shards:>6} shards of {WAREHOUSE_REPLICAS} replicas of {p.shard_gib:,} GiB")
    hours = DECIDE_HOURS + BUILD_HOURS + p.restore_seconds / 3600 + CATCH_UP_HOURS
    print(f"  recovery     {hours:>6.1f} h after a region is lost, {p.restore_seconds / 3600:.1f} of them to bring the stores back")
    print(f"  money        {sum(p.dollars.values()):>10,.0f} dollars a month: "
          + ", ".join(f"{key} {value:,.0f}" for key, value in p.dollars.items()))


def specification(prices):
    """Where the specification's own figures do not add up."""
    month = 10e6 * 86_400 * 30
    print(f"10 million events a second are {month:.3g} a month, {month / 100e9:.0f} times the 100 billion of the same list")
    print(f"its Kafka (6 brokers of 1 TiB, 3 replicas, 500 B an event) is full after {6 * 2**40 / (10e6 * 500 * 3):.0f} s at that rate")
    per_pod = 10e6 / 150
    print(f"150 pods take {per_pod:,.0f} events a second each; at its 5,000 requests a second and pod that is {per_pod / 5_000:.1f} events a request")
    print(f"its scaler stops at 50 pods where its table needs 150; its node groups stop at {20 + 30 + 10 + 5} nodes where it needs 100")
    print(f"its subnets have {3 * 251} addresses, enough for {3 * 251 // 60} of its nodes")
    print(f"one failover of 4 h spends {4 / (365 * 24 * 0.0005) * 100:.0f} % of a year's downtime at 99.95 %")
    print(f"optimised growth costs {89 * 12 / 60e3 * 100:.2f} % of revenue and not 2.8 %, optimised scale {400 * 12 / 180e3 * 100:.2f} % and not 3.8 %")
    for level, (events, requests, events_month) in LEVELS.items():
        p = plan(events, requests, events_month, prices)
        ingestion, attribution, nodes = SPECIFIED_PODS[level]
        print(f"{level}: it says {ingestion} ingestion, {attribution} attribution pods and {nodes} nodes; "
              f"measured: {p.ingestion}, {p.attribution} and {p.nodes}")
        if level in SPECIFIED_DOLLARS:
            phase, dollars = SPECIFIED_DOLLARS[level]
            total = sum(p.dollars.values())
            print(f"{phase}: it says {dollars:,.0f} dollars a month; this plan says {total:,.0f}, {total / dollars:.1f} times that, "
                  f"{p.dollars['scylla'] / total * 100:.0f} % of it for journeys of {JOURNEY_MONTHS} months")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events-per-second", type=float)
    parser.add_argument("--requests-per-second", type=float, default=1e3)
    parser.add_argument("--events-per-month", type=float)
    parser.add_argument("--batch", type=int, default=BATCH_EVENTS, help="events of a request")
    parser.add_argument("--report", type=pathlib.Path, help="of a run of the benchmark")
    parser.add_argument("--level", choices=LEVELS)
    parser.add_argument("--specification", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    prices = tomllib.loads((ROOT / "ops/prices.toml").read_text())
    if arguments.specification:
        specification(prices)
    if arguments.events_per_second:
        events = arguments.events_per_second
        month = arguments.events_per_month or events * 86_400 * 30 / 5
        cpu = Cpu.of(json.loads(arguments.report.read_text())) if arguments.report else Cpu()
        show(f"{events:,.0f} events/s in batches of {arguments.batch}, {month:.3g} a month",
             plan(events, arguments.requests_per_second, month, prices, arguments.batch, cpu))
    for level in [arguments.level] if arguments.level else LEVELS if arguments.write else []:
        p = plan(*LEVELS[level], prices)
        show(level, p)
        if arguments.write:
            folder = ROOT / "k8s/components/capacity" / level
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "kustomization.yaml").write_text(component(level, p))


if __name__ == "__main__":
    main()
