"""Holds docker-compose.yml and what it mounts to the programs: see check-compose.sh."""

import os
import re
import subprocess
import sys
from urllib.parse import urlsplit

import yaml

PROGRAMS = ["ingestion", "attribution-engine", "query-api", "ml-gateway"]
# The port that each server listens on unless told otherwise.
PORTS = {"kafka": 9092, "scylla": 9042, "redis": 6379, "clickhouse": 8123, "jaeger": 4317}

folder = sys.argv[1]
compose = yaml.safe_load(open("docker-compose.yml"))
services = compose["services"]
wrong = []


def check(condition, says):
    if not condition:
        wrong.append(says)


dockerfile = open("Dockerfile").read()
targets = set(re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.M))
listen = dict(re.findall(r"(ATTRIBUTION_LISTEN|ATTRIBUTION_METRICS)=\S+:(\d+)", dockerfile))
ports = {program: {int(port) for port in listen.values()} for program in PROGRAMS}

for name in PROGRAMS:
    service = services[name]
    check(service["build"]["target"] in targets, f"{name}: the Dockerfile has no target {service['build']['target']}")
    environment = {key: str(value) for key, value in service["environment"].items()}
    # The program refuses variables that it does not know, and values that it cannot read.
    printed = subprocess.run(
        [os.path.join(folder, name), "--print-config"], env=environment, capture_output=True, text=True
    )
    check(printed.returncode == 0, f"{name}: {printed.stderr.strip()}")
    for key, value in environment.items():
        if "://" not in value:
            continue
        url = urlsplit(value)
        check(url.hostname in services, f"{name}: {key} names {url.hostname}, which is no service")
        check(
            url.port in ports.get(url.hostname, {PORTS.get(url.hostname)}),
            f"{name}: {key}: {url.hostname} does not listen on {url.port}",
        )
        if url.hostname != "jaeger":
            check(url.hostname in service["depends_on"] or url.hostname in PROGRAMS, f"{name}: {key} is not waited for")
    for path in ("ATTRIBUTION_SETTINGS__FILE", "ATTRIBUTION_SETTINGS__FOLDER"):
        mounted = [volume.split(":")[1] for volume in service["volumes"]]
        check(any(environment[path].startswith(mount) for mount in mounted), f"{name}: {path} is on no volume")

peers = (services["attribution-engine"]["environment"], services["query-api"]["environment"])
check(peers[0]["ATTRIBUTION_PEER_KEY"] == peers[1]["ATTRIBUTION_ATTRIBUTION__KEY"], "the keys of peers differ")
check(
    services["ml-gateway"]["environment"]["ATTRIBUTION_PEER_KEY"] == peers[0]["ATTRIBUTION_ML__KEY"],
    "the keys of attribution and of the gateway of models differ",
)
check(
    services["ingestion"]["environment"]["ATTRIBUTION_LOG"] == peers[0]["ATTRIBUTION_LOG"],
    "ingestion and attribution have different logs",
)
for store in ("ATTRIBUTION_JOURNEYS", "ATTRIBUTION_WAREHOUSE"):
    check(peers[0][store] == peers[1][store], f"attribution and queries differ in {store}")

for name, service in services.items():
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        there = os.path.exists(source) if source.startswith("./") else source in compose["volumes"]
        check(there, f"{name}: there is no volume or file {source}")
    for other, how in (service.get("depends_on") or {}).items() if isinstance(service.get("depends_on"), dict) else []:
        if how["condition"] == "service_healthy":
            check("healthcheck" in services[other], f"{name} waits for the health of {other}, which has no check")

# Its routes are held to the contract by tests/deploy/test_kong.py.
for upstream in yaml.safe_load(open("kong/kong.yaml"))["services"]:
    url = urlsplit(upstream["url"])
    check(url.port == int(listen["ATTRIBUTION_LISTEN"]), f"kong: {upstream['name']}: wrong port {url.port}")
    check(url.hostname in PROGRAMS, f"kong: {upstream['name']}: no program {url.hostname}")

scraped = yaml.safe_load(open("config/compose/prometheus.yml"))["scrape_configs"][0]["static_configs"][0]["targets"]
expected = sorted(f"{program}:{listen['ATTRIBUTION_METRICS']}" for program in PROGRAMS)
check(sorted(scraped) == expected, f"prometheus scrapes {scraped}, not {expected}")

for line in wrong:
    print(f"check-compose: {line}", file=sys.stderr)
print(f"check-compose: {len(services)} services, {len(wrong)} wrong")
sys.exit(bool(wrong))
