#!/usr/bin/env bash
# A real etcd and kube-apiserver on free ports of the loopback: `scripts/kubernetes.sh FOLDER COMMAND...`.
# The command runs with KUBECONFIG set; both servers end with it.
set -euo pipefail
folder=$1
shift
bin=$(cd "$(dirname "$0")/../.tools/bin" && pwd)
rm -rf "$folder"
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
pids=()
# shellcheck disable=SC2329 # by the trap
stop() {
  # The API server first: without its store it does not end.
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill "${pids[i]}" 2>/dev/null || true
    wait "${pids[i]}" 2>/dev/null || true
  done
}
trap stop EXIT

# Below the ports that the system gives to those who ask for any, so that none of them is given away meanwhile.
read -r etcd_port peer_port port < <(python3 -c '
import random, socket
found = []
while len(found) < 3:
    with socket.socket() as s:
        try: s.bind(("127.0.0.1", random.randrange(15000, 30000)))
        except OSError: continue
        found.append(s.getsockname()[1])
print(*found)')

"$bin/etcd" --name one --data-dir "$folder/etcd" --unsafe-no-fsync --log-level warn \
  --listen-client-urls "http://127.0.0.1:$etcd_port" --advertise-client-urls "http://127.0.0.1:$etcd_port" \
  --listen-peer-urls "http://127.0.0.1:$peer_port" --initial-advertise-peer-urls "http://127.0.0.1:$peer_port" \
  --initial-cluster "one=http://127.0.0.1:$peer_port" > "$folder/etcd.log" 2>&1 &
pids+=($!)

openssl genrsa -out "$folder/service-accounts.key" 2048 2>/dev/null
token=$(openssl rand -hex 16)
echo "$token,admin,admin,system:masters" > "$folder/tokens.csv"
"$bin/kube-apiserver" --etcd-servers "http://127.0.0.1:$etcd_port" --secure-port "$port" \
  --bind-address 127.0.0.1 --advertise-address 127.0.0.1 --endpoint-reconciler-type none --cert-dir "$folder/certificates" \
  --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$folder/service-accounts.key" \
  --service-account-signing-key-file "$folder/service-accounts.key" --disable-admission-plugins ServiceAccount \
  --token-auth-file "$folder/tokens.csv" --authorization-mode RBAC --service-cluster-ip-range 10.96.0.0/16 \
  --allow-privileged --profiling=false > "$folder/apiserver.log" 2>&1 &
pids+=($!)

cat > "$folder/kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: one, cluster: {server: "https://127.0.0.1:$port", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: $token}}]
contexts: [{name: one, context: {cluster: one, user: admin}}]
current-context: one
YAML
export KUBECONFIG=$folder/kubeconfig KUBECACHEDIR=$folder/cache

# Ten minutes at most, on a machine that does much else.
for _ in $(seq 3000); do
  kill -0 "${pids[1]}" 2>/dev/null || { tail -5 "$folder/apiserver.log" >&2; exit 1; }
  [ "$(curl -sk -H "Authorization: Bearer $token" "https://127.0.0.1:$port/readyz")" = ok ] && { "$@"; exit; }
  sleep 0.2
done
echo "no answer from the API server; see $folder/apiserver.log" >&2
exit 1
