#!/usr/bin/env bash
# Backs up the warehouse: the first run of a day is whole, the others hold what has changed since it.
set -euo pipefail
: "${CLICKHOUSE_HOST:?}" "${CLICKHOUSE_PASSWORD:?}" "${BACKUP_URL:?}"
day=$(date -u +%F)
now=$(date -u +%FT%H%M)

query() { clickhouse-client --host "$CLICKHOUSE_HOST" --user backup --password "$CLICKHOUSE_PASSWORD" --query "$1"; }

done_before=$(query "SELECT count() FROM clusterAllReplicas('main', system.backups)
  WHERE status = 'BACKUP_CREATED' AND name LIKE '%/$day/whole%'")
if [ "$done_before" = 0 ]; then
  query "BACKUP DATABASE attribution ON CLUSTER 'main' TO S3('$BACKUP_URL/$day/whole')"
else
  query "BACKUP DATABASE attribution ON CLUSTER 'main' TO S3('$BACKUP_URL/$day/$now')
    SETTINGS base_backup = S3('$BACKUP_URL/$day/whole')"
fi
