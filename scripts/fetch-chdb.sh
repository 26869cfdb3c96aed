#!/bin/sh
# Fetches libchdb, the ClickHouse engine as a library (Apache-2.0), and prints its path.
#
# The package comes from the configured npm registry and is checked before it is unpacked: against
# the digest pinned here where there is one, else against the digest in the registry's metadata.
# It goes to $ATTRIBUTION_CHDB_DIR, or to the user's cache, and is fetched only once.
set -eu

version=26.7.3-stable.1

case "$(uname -s)/$(uname -m)" in
Linux/x86_64) package=@chdb/lib-linux-x64-gnu
    pinned=sha512-XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw== ;;
Linux/aarch64 | Linux/arm64) package=@chdb/lib-linux-arm64-gnu pinned= ;;
Darwin/arm64) package=@chdb/lib-darwin-arm64 pinned= ;;
Darwin/x86_64) package=@chdb/lib-darwin-x64 pinned= ;;
*)
    echo "fetch-chdb: there is no libchdb for $(uname -s)/$(uname -m)" >&2
    exit 1
    ;;
esac

dir=${ATTRIBUTION_CHDB_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/attribution/chdb/$version}
lib=$dir/libchdb.so
if [ -f "$lib" ]; then
    echo "$lib"
    exit 0
fi

for tool in npm node tar; do
    command -v "$tool" >/dev/null || {
        echo "fetch-chdb: $tool is needed and was not found; or set ATTRIBUTION_CHDB_LIB to a libchdb.so" >&2
        exit 1
    }
done

mkdir -p "$dir"
work=$(mktemp -d "$dir/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

echo "fetch-chdb: fetching $package@$version (about 180 MB)" >&2
npm pack --silent --pack-destination "$work" "$package@$version" >/dev/null || {
    echo "fetch-chdb: npm could not fetch $package@$version; or set ATTRIBUTION_CHDB_LIB to a libchdb.so" >&2
    exit 1
}
tarball=$(echo "$work"/*.tgz)

expected=${pinned:-$(npm view --silent "$package@$version" dist.integrity)}
actual=sha512-$(node -e '
    const hash = require("crypto").createHash("sha512");
    require("fs").createReadStream(process.argv[1])
        .on("data", (data) => hash.update(data))
        .on("end", () => console.log(hash.digest("base64")));
' "$tarball")
if [ -z "$expected" ] || [ "$actual" != "$expected" ]; then
    echo "fetch-chdb: $package@$version has the digest $actual, expected ${expected:-none}; it is not used" >&2
    exit 1
fi

tar -xzf "$tarball" -C "$work"
for file in "$work/package/libchdb.so" "$work/package/libchdb.dylib"; do
    [ ! -f "$file" ] || mv "$file" "$work/libchdb.so"
done
[ -f "$work/libchdb.so" ] || {
    echo "fetch-chdb: $package@$version holds no libchdb" >&2
    exit 1
}
chmod 0755 "$work/libchdb.so"
# A rename is atomic, so a file at this path is whole, whoever else fetches at the same time.
mv -f "$work/libchdb.so" "$lib"
echo "$lib"
