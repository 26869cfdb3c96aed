#!/usr/bin/env bash
# golden.sh NAME: writes the data folder tools/cli/tests/golden/NAME.tar.gz with the present program, from events.ndjson
# beside it. Run it when a format changes, under a new name; the folders of earlier formats stay, and must still open.
set -euo pipefail
cd "$(dirname "$0")/.."
target="tools/cli/tests/golden/${1:?name the folder}.tar.gz"
cargo build --locked -p attribution-cli
work=$(mktemp -d)
export ATTRIBUTION_LOG_SEGMENT_BYTES_MAX=1048576 ATTRIBUTION_URL=http://127.0.0.1:18080
target/debug/attribution serve --data "$work/data" --listen 127.0.0.1:18080 --metrics 127.0.0.1:0 2>"$work/log" &
serve=$!
trap 'kill -9 $serve 2>/dev/null || true; rm -rf "$work"' EXIT
for _ in $(seq 600); do
  if curl -fs "$ATTRIBUTION_URL/health/ready" >/dev/null; then break; fi
  sleep 0.1
done
ATTRIBUTION_KEY=$(cat "$work/data/api-key")
curl -fsS -X POST "$ATTRIBUTION_URL/v1/events" -H "authorization: Bearer $ATTRIBUTION_KEY" \
  -H 'content-type: application/x-ndjson' --data-binary @tools/cli/tests/golden/events.ndjson
curl -fsS -X POST "$ATTRIBUTION_URL/v1/reports?consistency=acknowledged" -H "authorization: Bearer $ATTRIBUTION_KEY" \
  -H 'content-type: application/json' \
  -d '{"from":"2026-01-01","to":"2026-02-01","models":["decision"],"dimensions":["channel"]}'
kill -TERM $serve
wait $serve
tar -C "$work" --sort=name --owner=0 --group=0 -czf "$target" data
ls -l "$target"
