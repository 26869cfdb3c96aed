#!/usr/bin/env bash
# Lints the contracts with buf, and checks that they still read what the main branch wrote.
set -euo pipefail
cd "$(dirname "$0")/.."
version=1.75.0
tools=${XDG_CACHE_HOME:-$HOME/.cache}/attribution/buf/$version
if [ ! -x "$tools/node_modules/.bin/buf" ]; then
  mkdir -p "$tools"
  npm install --silent --no-fund --no-audit --no-save --prefix "$tools" "@bufbuild/buf@$version" >&2
fi
buf=$tools/node_modules/.bin/buf
(cd proto && "$buf" lint)
if git rev-parse --verify --quiet origin/main >/dev/null && git cat-file -e origin/main:proto/buf.yaml 2>/dev/null; then
  "$buf" breaking proto --against ".git#ref=refs/remotes/origin/main,subdir=proto"
fi
echo "contracts: ok" >&2
