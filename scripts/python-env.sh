#!/bin/sh
# Makes a Python environment of pinned packages in the user's cache, once, and prints the path of its Python:
# `train` for training, `peer` for the model server that tests talk to.
set -eu
cd "$(dirname "$0")/.."

case "${1:-}" in
train) requirements=ml/requirements.txt ;;
peer) requirements=ml/requirements-peer.txt ;;
*)
    echo "usage: python-env.sh train|peer" >&2
    exit 1
    ;;
esac

digest=$(sha256sum "$requirements" | cut -c1-16)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/attribution/python/$1-$digest
mkdir -p "$(dirname "$dir")"
# One at a time: an environment cannot be moved to its place when it is whole, since it holds its own path.
exec 9>"$dir.lock"
flock 9
if [ ! -f "$dir/whole" ]; then
    echo "python-env: installing $requirements" >&2
    rm -rf "$dir"
    python3 -m venv "$dir" >&2
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --requirement "$requirements" >&2
    touch "$dir/whole"
fi
echo "$dir/bin/python"
