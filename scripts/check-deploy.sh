#!/usr/bin/env bash
# Checks everything that deploys the platform: `check-deploy.sh quick` in minutes; `full` builds what takes longer first.
#
# The schemas of custom resources come from their projects' Go modules. Four projects have none: the quick check leaves their
# kinds out and says so, the full one asks the public catalogue. SCHEMAS=FOLDER, with `json` and `crds`, has them all.
set -euo pipefail
cd "$(dirname "$0")/.."
level=${1:-quick}
export PATH=$PWD/.tools/bin:$PWD/.tools/py/bin:$PATH

[ "$level" = full ] && scripts/deploy-tools.sh server policy istio
scripts/deploy-tools.sh light
rendered=$(mktemp -d)
trap 'rm -r "$rendered"' EXIT

step() { echo "== $*"; }

step "overlays build"
for overlay in k8s/overlays/*/ tests/deploy/optional/; do kubectl kustomize "$overlay" > "$rendered/$(basename "$overlay").yaml"; done

step "schemas"
locations=(-schema-location '.tools/schemas/{{.NormalizedKubernetesVersion}}-standalone{{.StrictSuffix}}/{{.ResourceKind}}{{.KindSuffix}}.json')
layout='{{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json'
# Kinds that cannot be had as Go modules, for want of SCHEMAS.
export WITHOUT_SCHEMA=
if [ -z "${SCHEMAS:-}" ]; then
  export SCHEMAS=$PWD/.tools/custom-resources
  WITHOUT_SCHEMA=Kafka,KafkaNodePool,KafkaTopic,KafkaUser,ScyllaCluster,ClickHouseInstallation,ClickHouseKeeperInstallation,RedisCluster
fi
locations+=(-schema-location "$SCHEMAS/json/$layout")
if [ -n "$WITHOUT_SCHEMA" ] && [ "$level" = full ]; then
  locations+=(-schema-location "https://raw.githubusercontent.com/datreeio/CRDs-catalog/main/$layout")
elif [ -n "$WITHOUT_SCHEMA" ]; then
  echo "not held to a schema, for want of SCHEMAS: $WITHOUT_SCHEMA"
  locations+=(-skip "$WITHOUT_SCHEMA")
fi
kubeconform -strict -summary -kubernetes-version 1.36.0 "${locations[@]}" "$rendered"/*.yaml argocd/*.yaml

step "rules across files"
python -m pytest -q -p no:cacheprovider tests/deploy

step "shell, YAML, workflows, containers"
git ls-files '*.sh' | xargs shellcheck
yamllint --strict -c .yamllint.yaml k8s istio monitoring argocd kong .github
actionlint
zizmor --offline --quiet .github/workflows
hadolint --failure-threshold warning Dockerfile
check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml

if command -v terraform > /dev/null; then
  step "Terraform"
  export TF_CLI_CONFIG_FILE=/dev/null CHECKPOINT_DISABLE=1
  terraform fmt -check -recursive infra
  terraform -chdir=infra/modules/addresses init -backend=false > /dev/null
  terraform -chdir=infra/modules/addresses validate > /dev/null
  terraform -chdir=infra/modules/addresses test > /dev/null
else
  step "Terraform: not run, there is no terraform"
fi

if [ -d "$SCHEMAS/kong" ]; then
  step "Kong's file"
  check-jsonschema --schemafile "$SCHEMAS/kong/deck-file.schema.json" kong/kong.yaml
fi

# Building it takes minutes, running it one: so it runs wherever it is built already.
if [ -x .tools/bin/kube-apiserver ]; then
  step "a real API server"
  scripts/kubernetes.sh .tools/kubernetes tests/deploy/kubernetes/run.sh
else
  step "a real API server: not run; make check-deploy-full builds it once"
fi

[ "$level" = full ] || exit 0

# Production with all that it may have is more than production, so these read that.
step "kube-score"
# Each with its reason: see .kube-score.
mapfile -t ignored < <(sed -n 's/^\([a-z-]*\): .*/--ignore-test=\1/p' .kube-score)
# Processors have no limit: throttling would be paid in P95.
kube-score score --kubernetes-version v1.35 --ignore-container-cpu-limit --output-format ci "${ignored[@]}" "$rendered/optional.yaml" > "$rendered/score" ||
  { grep '^.CRITICAL' "$rendered/score"; exit 1; }
step "tflint"
tflint --chdir=infra --recursive
step "checkov"
.tools/py-checkov/bin/checkov --skip-download --quiet --compact -d infra --framework terraform
.tools/py-checkov/bin/checkov --skip-download --quiet --compact -f "$rendered/optional.yaml" --framework kubernetes \
  --config-file .checkov.yaml
step "the mesh as Istio reads it"
istioctl analyze -A --use-kube=false "$rendered/optional.yaml"
