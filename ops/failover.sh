#!/usr/bin/env bash
# Moves a lost region's name to a new cluster of another one, once that serves. docs/runbooks.md brings its history back before.
#
#   CLOUDFLARE_ZONE=... CLOUDFLARE_RECORD=... CLOUDFLARE_TOKEN=... \
#     ops/failover.sh --from us-east-1 --context CONTEXT --name api.example.com [--go] [--although-it-answers]
#
# Without --go nothing changes. It refuses while the old region answers: two regions must never write for one tenant.
set -euo pipefail
# shellcheck source=ops/lib.sh
. "$(dirname "$0")/lib.sh"

from=
name=
although=false
while [ $# -gt 0 ]; do
  case $1 in
    --from) from=${2:?}; shift 2 ;;
    --context) context=${2:?}; shift 2 ;;
    --name) name=${2:?}; shift 2 ;;
    --go) go=true; shift ;;
    --although-it-answers) although=true; shift ;;
    *) usage_error "unknown: $1" ;;
  esac
done
[ -n "$from" ] && [ -n "$context" ] && [ -n "$name" ] || usage_error "give --from, --context and --name"

step "$from does not answer"
if curl --silent --fail --max-time 10 --output /dev/null "https://$name/openapi.json"; then
  $although || fail "$name still answers: if it must be moved all the same, say --although-it-answers"
fi

step "the address of $context"
address=$(kube -n edge get service edge -o jsonpath='{.status.loadBalancer.ingress[0].hostname}')
[ -n "$address" ] || fail "the load balancer of $context has no address"
echo "$address"

if $go; then
  step "check before anybody is sent there"
  "$(dirname "$0")/verify.sh" --context "$context" --behind-seconds-max 600
  : "${CLOUDFLARE_ZONE:?}" "${CLOUDFLARE_RECORD:?}" "${CLOUDFLARE_TOKEN:?}"
fi

step "the name moves"
change curl --silent --fail --request PATCH \
  "https://api.cloudflare.com/client/v4/zones/${CLOUDFLARE_ZONE:-ZONE}/dns_records/${CLOUDFLARE_RECORD:-RECORD}" \
  --header "Authorization: Bearer ${CLOUDFLARE_TOKEN:-TOKEN}" --json "{\"content\": \"$address\"}"
