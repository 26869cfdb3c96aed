#!/bin/sh
# Holds every variable, address, port and volume of docker-compose.yml to the programs' own configuration:
# scripts/check-compose.sh [FOLDER OF THE PROGRAMS]. The files themselves are checked by scripts/check-deploy.sh.
set -eu
cd "$(dirname "$0")/.."
scripts/deploy-tools.sh python
.tools/py/bin/python scripts/check-compose.py "${1:-${CARGO_TARGET_DIR:-target}/debug}"
