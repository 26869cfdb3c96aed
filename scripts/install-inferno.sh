#!/bin/sh
# Installs inferno, which draws the flame graphs of `make profile`, and prints the folder of its programs.
#
# It goes to $ATTRIBUTION_INFERNO_DIR, or to the user's cache, and is built only once. It is a tool: nothing links it.
set -eu

version=0.12.8

dir=${ATTRIBUTION_INFERNO_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/attribution/inferno/$version}
if [ ! -x "$dir/bin/inferno-flamegraph" ] || [ ! -x "$dir/bin/inferno-collapse-perf" ]; then
    cargo install --quiet --locked --version "$version" --root "$dir" inferno >&2
fi
echo "$dir/bin"
