#!/bin/sh
# The demo with the release binary: everything it makes is in target/demo.
set -eu
cd "$(dirname "$0")/.."
exec "${CARGO_TARGET_DIR:-target}/release/attribution" demo "$@"
