#!/bin/sh
# Fetches libonnxruntime, which runs the models of the gateway (MIT), and prints its path.
#
# It is taken out of the Python package, checked against the digest pinned here, into $ATTRIBUTION_ONNXRUNTIME_DIR or the
# user's cache, and fetched only once. Python itself is not needed to run it.
set -eu

version=1.31.1

case "$(uname -s)/$(uname -m)" in
Linux/x86_64) machine=x86_64 pinned=5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f ;;
Linux/aarch64 | Linux/arm64) machine=aarch64 pinned=da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3 ;;
*)
    echo "fetch-onnxruntime: no digest is pinned for $(uname -s)/$(uname -m); set ATTRIBUTION_ONNXRUNTIME_LIB to a libonnxruntime.so of version $version" >&2
    exit 1
    ;;
esac

dir=${ATTRIBUTION_ONNXRUNTIME_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/attribution/onnxruntime/$version}
lib=$dir/libonnxruntime.so
if [ -f "$lib" ]; then
    echo "$lib"
    exit 0
fi

mkdir -p "$dir"
work=$(mktemp -d "$dir/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

echo "fetch-onnxruntime: fetching onnxruntime $version (about 20 MB)" >&2
# The same file whichever Python runs here.
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.11 \
    --implementation cp --abi cp311 --platform "manylinux_2_27_$machine" --platform "manylinux_2_28_$machine" \
    --dest "$work" "onnxruntime==$version"
wheel=$(echo "$work"/*.whl)
echo "$pinned  $wheel" | sha256sum --check --quiet - >&2 || {
    echo "fetch-onnxruntime: onnxruntime $version has another digest than the one pinned; it is not used" >&2
    exit 1
}
python3 -m zipfile -e "$wheel" "$work/package"
chmod 0755 "$work/package/onnxruntime/capi/libonnxruntime.so.$version"
# A rename is atomic, so a file at this path is whole, whoever else fetches at the same time.
mv -f "$work/package/onnxruntime/capi/libonnxruntime.so.$version" "$lib"
echo "$lib"
