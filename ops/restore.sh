#!/usr/bin/env bash
# Restores the newest pair of backups (journey store and warehouse) that fits together, and lets attribution go on.
#
#   ops/restore.sh --context CONTEXT --bucket BUCKET --of REGION [--copies-in REGION] [--before 2026-11-25T10:00] [--go]
#
# Without --go it finds the pair and prints what it would do. A second run does the same again.
# It refuses a cluster whose warehouse holds anything, unless it is told --over-what-is-there; and another region's backups:
# positions in a journey store are those of its own region's log. Where that is lost, --copies-in says where the bucket of
# copies is, and attribution is told to go on in the log of the new cluster.
set -euo pipefail
# shellcheck source=ops/lib.sh
. "$(dirname "$0")/lib.sh"

before=$(date -u +%FT%H:%M)
over=false
in=
while [ $# -gt 0 ]; do
  case $1 in
    --context) context=${2:?}; shift 2 ;;
    --bucket) bucket=${2:?}; shift 2 ;;
    --of) of=${2:?}; shift 2 ;;
    --copies-in) in=${2:?}; shift 2 ;;
    --over-what-is-there) over=true; shift ;;
    --before) before=${2:?}; shift 2 ;;
    --go) go=true; shift ;;
    *) usage_error "unknown: $1" ;;
  esac
done
[ -n "$context" ] || usage_error "give --context"
[ -n "$bucket" ] && [ -n "$of" ] || usage_error "give --bucket and --of"
kind=backups
[ -z "$in" ] || kind=copies
case $bucket in
  "attribution-$kind-$of" | "attribution-$kind-$of"-*) ;;
  *) usage_error "$bucket is no bucket of $kind of $of: stores of another log; for a lost region see --copies-in" ;;
esac
[[ $before =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}$ ]] || usage_error "--before is such as 2026-11-25T10:00, UTC"

step "the pair"
read -r from_warehouse from_journeys < <(newest_pair "$before")
echo "warehouse $from_warehouse, journey store $from_journeys"

step "what is there"
rows=$(warehouse "SELECT sum(total_rows) FROM clusterAllReplicas('main', system.tables) WHERE database = 'attribution'")
echo "${rows:-0} rows"
[ "${rows:-0}" = 0 ] || $over || fail "the warehouse of $context holds rows; to replace them say --over-what-is-there"

step "attribution stops; ingestion goes on into the log"
pause_attribution
change kube -n processing wait --for=delete pod -l app.kubernetes.io/name=attribution-engine --timeout=120s

step "the journey store, which comes back while the warehouse does"
if $go; then
  task=$(manager restore --cluster databases/attribution --location "s3:$bucket" --snapshot-tag "$from_journeys" --restore-tables |
    grep -o 'restore/[0-9a-f-]*') || fail "ScyllaDB Manager named no task"
  echo "$task"
else
  change manager restore --cluster databases/attribution --location "s3:$bucket" --snapshot-tag "$from_journeys" --restore-tables
fi

step "the warehouse"
url="https://$bucket.s3.${in:-$of}.amazonaws.com/clickhouse/$of/$from_warehouse"
change warehouse "DROP DATABASE IF EXISTS attribution ON CLUSTER 'main' SYNC"
change warehouse "RESTORE DATABASE attribution ON CLUSTER 'main' FROM S3('$url')"
for table in touches conversions identities; do
  change warehouse "$(sed "s/TABLE$/$table/; /^--/d" "$(dirname "$0")/whole-batches.sql")"
done

step "the journey store is whole"
if $go; then wait_for_task "$task"; fi

step "attribution goes on where the restored journey store stopped"
resume_attribution
if [ -n "$in" ]; then
  step "and in the log of this cluster, once it has named the one that is lost"
  lost=ID
  if $go; then lost=$(lost_log); fi
  change kube -n processing set env deploy/attribution-engine "ATTRIBUTION_CONTINUES=$lost"
fi
change kube -n processing wait --for=condition=Ready pod -l app.kubernetes.io/name=attribution-engine --timeout=600s
