#!/bin/sh
# The demo through a process for each service, over real Kafka, CQL, Redis and ClickHouse servers: those that KAFKA_URL,
# SCYLLA_URL and REDIS_URL name, else servers that are fetched and started, and stopped afterwards.
set -eu
cd "$(dirname "$0")/.."
release=${CARGO_TARGET_DIR:-target}/release
exec "$release/cluster" "$release" "$release/attribution" demo --running --out target/demo-cluster "$@"
