# shellcheck shell=bash
# What the scripts of recovery share. Sourced; needs `set -euo pipefail`.

# Without --go nothing is changed: each step is printed with what it would run.
go=false
context=
# The bucket of backups, and the region that wrote them.
bucket=
of=

usage_error() { echo "$0: $*; see the head of this file" >&2; exit 2; }
fail() { echo "$0: $*" >&2; exit 1; }
step() { echo "== $*"; }

# change COMMAND...: runs it with --go, prints it without.
change() {
  if $go; then "$@"; else printf 'would run: %s\n' "$(printf '%q ' "$@")"; fi
}

# kube ARGUMENTS...: kubectl against the one named cluster, never against whatever is current.
kube() { kubectl --context "${context:?}" "$@"; }

# warehouse SQL: asks ClickHouse of that cluster, from a pod of its own.
warehouse() {
  kube -n databases exec chi-attribution-main-0-0-0 -c clickhouse -- clickhouse-client --query "$1"
}

# manager ARGUMENTS...: ScyllaDB Manager of that cluster.
manager() { kube -n scylla-manager exec deploy/scylla-manager -- sctool "$@"; }

# wait_for_task TASK: until a task of ScyllaDB Manager is done, four hours at most.
wait_for_task() {
  local status
  for _ in $(seq 720); do
    status=$(manager progress --cluster databases/attribution "$1" | sed -n 's/^ *Status:[[:space:]]*\([A-Z]*\).*/\1/p')
    case $status in
      DONE) return ;;
      ERROR* | ABORTED | STOPPED) fail "$1: $status" ;;
    esac
    sleep 20
  done
  fail "$1: not done after four hours"
}

# Names of backups of the warehouse, oldest first, such as 2026-11-25/whole and 2026-11-25/2026-11-25T0930.
warehouse_backups() {
  aws s3 ls --recursive "s3://$bucket/clickhouse/$of/" |
    awk -v of="clickhouse/$of/" 'sub("/.backup$", "", $4) && sub("^" of, "", $4) { print $1 "T" substr($2, 1, 5), $4 }' | sort
}

# Snapshot tags of the journey store, oldest first, such as sm_20261125094002UTC, as "2026-11-25T09:40 TAG".
journey_backups() {
  manager backup list --cluster databases/attribution --location "s3:$bucket" --all-clusters |
    grep -o 'sm_[0-9]\{14\}UTC' | sort -u |
    sed 's/sm_\(....\)\(..\)\(..\)\(..\)\(..\)..UTC/\1-\2-\3T\4:\5 &/'
}

# newest_pair BEFORE: "WAREHOUSE JOURNEYS", the newest backup of the warehouse before that moment, and the newest of the
# journey store before it: what a restored warehouse has too much is taken back, what it lacks nobody could make again.
newest_pair() {
  local journeys at warehouse_name
  read -r _ warehouse_name < <(warehouse_backups | awk -v before="$1" '$1 < before' | tail -1) || true
  [ -n "${warehouse_name:-}" ] || fail "no backup of the warehouse before $1 in $bucket"
  at=$(begun "$warehouse_name")
  read -r _ journeys < <(journey_backups | awk -v before="$at" '$1 < before' | tail -1) || true
  [ -n "${journeys:-}" ] || fail "no backup of the journey store before $at in $bucket"
  echo "$warehouse_name $journeys"
}

# begun NAME: when a backup of the warehouse began, as its name says; the first of a day is named by the day alone.
begun() {
  case $1 in
    */whole) echo "${1%/whole}T00:00" ;;
    *) local name=${1##*/}; echo "${name%??}:${name: -2}" ;;
  esac
}

# lost_log: the id of the log whose stores attribution has found, ten minutes at most.
lost_log() {
  local id
  for _ in $(seq 60); do
    id=$(kube -n processing logs -l app.kubernetes.io/name=attribution-engine --tail=200 |
      grep -o 'belong to the event log [0-9a-f-]\{36\}' | tail -1) || true
    if [ -n "$id" ]; then
      echo "${id##* }"
      return
    fi
    sleep 10
  done
  fail "attribution names no other log: are the stores those of the lost region?"
}

pause_attribution() { change kube -n processing annotate --overwrite scaledobject attribution-engine autoscaling.keda.sh/paused-replicas=0; }
resume_attribution() { change kube -n processing annotate scaledobject attribution-engine autoscaling.keda.sh/paused-replicas-; }
