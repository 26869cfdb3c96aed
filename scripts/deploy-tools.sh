#!/usr/bin/env bash
# Installs the tools that check the deployment, pinned, into the ignored folder .tools; a second run does nothing.
#
#   python  kubectl with kustomize, pytest, the linters of YAML, shell, workflows and Dockerfiles
#   light   the same, kubeconform with schemas, actionlint, promtool, amtool, etcd
#   server  kube-apiserver
#   policy  checkov, kube-score, tflint
#   istio   istioctl
set -euo pipefail
cd "$(dirname "$0")/.."
recipes=$PWD/scripts/deploy-tools
tools=$PWD/.tools
mkdir -p "$tools/bin"
export GOBIN=$tools/bin CGO_ENABLED=0 GOFLAGS=-buildvcs=false

# once NAME VERSION COMMAND...: run the command unless this version is stamped already.
once() {
  local stamp=$tools/.$1 version=$2
  shift 2
  [ "$(cat "$stamp" 2>/dev/null)" = "$version" ] && return
  echo "installing ${stamp##*/.} ${version:0:60}" >&2
  "$@"
  echo "$version" > "$stamp"
}

go_install() { go install -trimpath -ldflags='-s -w' "$@"; }

python_tools() {
  python3 -m venv --clear "$tools/$1"
  "$tools/$1/bin/pip" install --quiet --disable-pip-version-check -r "$recipes/$2"
}

debian_tools() {
  local scratch
  scratch=$(mktemp -d)
  # Apt downloads as a user of its own.
  chmod 755 "$scratch"
  # Downloading needs no rights; lists of packages that are missing do.
  (cd "$scratch" && { apt-get download -q etcd-server prometheus || {
    $(command -v sudo || true) apt-get update -q && apt-get download -q etcd-server prometheus
  }; } >/dev/null)
  for deb in "$scratch"/*.deb; do dpkg -x "$deb" "$tools/deb"; done
  rm -r "$scratch"
  ln -sf ../deb/usr/bin/{etcd,promtool} "$tools/bin/"
}

kube_apiserver() {
  local minor=${1#v1.}
  local stamp="-X k8s.io/component-base/version.gitVersion=$1 -X k8s.io/component-base/version.gitMajor=1"
  (cd "$recipes/kube-apiserver" && go build -trimpath \
    -ldflags="-s -w $stamp -X k8s.io/component-base/version.gitMinor=${minor%%.*}" \
    -o "$tools/bin/kube-apiserver" k8s.io/kubernetes/cmd/kube-apiserver)
}

python() { once py "$(sha256sum < "$recipes/requirements.txt")" python_tools py requirements.txt; }

light() {
  python
  once deb 2 debian_tools
  once schemas 1.36 "$tools/py/bin/python" "$recipes/core_schemas.py" 1.36 "$tools/schemas"
  once custom-resources "$(sha256sum < "$recipes/custom_resources.py")" \
    "$tools/py/bin/python" "$recipes/custom_resources.py" "$tools/custom-resources"
  once kubeconform v0.8.0 go_install github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0
  once amtool v0.34.2 go_install github.com/prometheus/alertmanager/cmd/amtool@v0.34.2
  once actionlint v1.7.12 go_install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
}

server() {
  local version
  version=$(sed -n 's/^\s*\(require \)\?k8s.io\/kubernetes \(v[0-9.]*\).*/\2/p' "$recipes/kube-apiserver/go.mod")
  once kube-apiserver "$version" kube_apiserver "$version"
}

policy() {
  once py-checkov "$(sha256sum < "$recipes/requirements-checkov.txt")" python_tools py-checkov requirements-checkov.txt
  once kube-score v1.20.0 go_install github.com/zegl/kube-score/cmd/kube-score@v1.20.0
  once tflint v0.64.0 go_install github.com/terraform-linters/tflint@v0.64.0
}

istio() { once istioctl eed52ebb66ad go_install istio.io/istio/istioctl/cmd/istioctl@v0.0.0-20260827124520-eed52ebb66ad; }

for set in "${@:-light}"; do
  case $set in
    python | light | server | policy | istio) "$set" ;;
    *) echo "no such set of tools: $set; there are python, light, server, policy and istio" >&2; exit 2 ;;
  esac
done
