#!/usr/bin/env bash
# Against a real API server: every overlay is accepted and applied, permissions are as meant, a bad Deployment is not.
# SCHEMAS has the folder `crds`, without those of the kinds WITHOUT_SCHEMA, which are left out. Run by scripts/kubernetes.sh.
set -euo pipefail
cd "$(dirname "$0")/../../.."
here=tests/deploy/kubernetes
kubectl=$PWD/.tools/py/bin/kubectl
rendered=$(mktemp -d)
trap 'rm -r "$rendered"' EXIT

say() { echo "kubernetes: $*"; }
apply() { "$kubectl" apply --server-side --validate=strict "$@" > /dev/null; }

say "custom resources"
apply -f "$SCHEMAS/crds"
# Established is not enough: they can be used once discovery lists them.
missing=all
for _ in $(seq 1200); do
  missing=$(comm -23 <("$kubectl" get crd -o name | sed 's#.*/##' | sort) <("$kubectl" api-resources --cached=false -o name | sort))
  [ -z "$missing" ] && break
  sleep 0.5
done
[ -z "$missing" ] || { echo "not served after ten minutes: $missing" >&2; exit 1; }
for namespace in keda velero istio-system; do "$kubectl" create namespace "$namespace" > /dev/null; done

for folder in k8s/overlays/{dev,staging,prod,prod-eu-west-1,prod-ap-south-1} tests/deploy/optional; do
  overlay=${folder##*/}
  "$kubectl" kustomize "$folder" | python3 "$here/choose.py" without "$WITHOUT_SCHEMA" > "$rendered/$overlay.yaml"
  # Namespaces first, as the deployment's steps do: a dry run needs them.
  python3 "$here/choose.py" only Namespace < "$rendered/$overlay.yaml" | apply -f -
  say "$overlay: dry run"
  apply --dry-run=server -f "$rendered/$overlay.yaml"
done
say "prod: applied"
apply -f "$rendered/prod.yaml"
say "prod: applied again, nothing changes"
apply -f "$rendered/prod.yaml"

say "permissions"
while read -r answer account verb resource namespace; do
  said=$("$kubectl" auth can-i "$verb" "$resource" -n "$namespace" --as "system:serviceaccount:$account" 2>/dev/null || true)
  [ "$said" = "$answer" ] || { echo "$account may $verb $resource in $namespace: $said, expected $answer" >&2; exit 1; }
done < "$here/permissions.txt"

say "a bad Deployment"
refused() { # NAME EXPECTED
  if said=$(apply --dry-run=server -f "$here/bad/$1.yaml" 2>&1); then echo "$1 was accepted" >&2; exit 1; fi
  grep -q "$2" <<< "$said" || { echo "$1 was refused for another reason: $said" >&2; exit 1; }
}
refused image-by-tag 'named by its digest'
refused no-limit 'needs a limit of memory'
refused no-request 'needs requests of cpu and memory'
refused wrong-selector 'selector'
refused two-replicas-in-words 'replicas'
refused privileged 'violates PodSecurity'
say "all as expected"
