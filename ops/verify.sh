#!/usr/bin/env bash
# Says `ok` when a cluster serves and has caught up: `ops/verify.sh --context CONTEXT [--behind-seconds-max 60]`.
set -euo pipefail
# shellcheck source=ops/lib.sh
. "$(dirname "$0")/lib.sh"

behind_seconds_max=60
while [ $# -gt 0 ]; do
  case $1 in
    --context) context=${2:?}; shift 2 ;;
    --behind-seconds-max) behind_seconds_max=${2:?}; shift 2 ;;
    *) usage_error "unknown: $1" ;;
  esac
done
[ -n "$context" ] || usage_error "give --context"

for service in ingestion/ingestion processing/attribution-engine api/query-api edge/kong; do
  step "$service is up"
  kube -n "${service%/*}" rollout status "deploy/${service#*/}" --timeout=300s
done

step "every store is ready"
kube -n databases wait --for=condition=Ready kafka/attribution --timeout=300s
kube -n databases wait --for=jsonpath='{.status.status}'=Completed chi/attribution --timeout=300s
kube -n databases wait --for=condition=Available scyllacluster/attribution --timeout=300s

step "attribution has caught up"
prometheus=/api/v1/namespaces/monitoring/services/prometheus-operated:9090/proxy/api/v1/query
behind=$(kube get --raw "$prometheus?query=max(attribution_freshness_seconds)" | grep -o '"value":\[[^]]*\]' | grep -o '[0-9.]*"\]' | tr -d '"]')
[ -n "$behind" ] || fail "Prometheus knows nothing of attribution"
awk -v behind="$behind" -v most="$behind_seconds_max" 'BEGIN { exit !(behind <= most) }' || fail "attribution is $behind s behind"

step "every table of the warehouse has its replicas"
lost=$(warehouse "SELECT count() FROM clusterAllReplicas('main', system.replicas) WHERE is_readonly OR total_replicas != active_replicas")
[ "$lost" = 0 ] || fail "$lost tables of the warehouse are read-only or without a replica"
echo ok
