#!/usr/bin/env bash
# Writes a digest into an overlay: `ops/promote.sh prod ingestion@sha256:...`. What runs is what the overlay says.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 2 ] || { echo "usage: ops/promote.sh OVERLAY SERVICE@sha256:DIGEST" >&2; exit 2; }
file=k8s/overlays/$1/kustomization.yaml
service=${2%%@*}
digest=${2#*@}
[ -f "$file" ] || { echo "there is no overlay $1" >&2; exit 1; }
[[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] || { echo "not a digest: $digest" >&2; exit 1; }
grep -q "{name: $service, .*digest: 'sha256:[0-9a-f]*'}" "$file" || { echo "$1 has no image $service" >&2; exit 1; }
sed -i "/{name: $service,/s/digest: 'sha256:[0-9a-f]*'/digest: '$digest'/" "$file"
