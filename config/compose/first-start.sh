#!/bin/sh
# Settings with one tenant, `default`, and one key that may do everything: docker compose exec is not needed to read it,
# `docker compose run --rm first-start` prints it again.
set -eu
cd /settings
if [ ! -s settings.toml ]; then
    key=ak_$(head -c 32 /dev/urandom | sha256sum | cut -c1-43)
    (umask 077 && echo "$key" >api-key)
    cat >settings.tmp <<SETTINGS
version = 1

[tenants.default]
currency = "EUR"

[[tenants.default.keys]]
name = "first key"
sha256 = "$(printf %s "$key" | sha256sum | cut -c1-64)"
scopes = ["ingest", "read", "admin"]
SETTINGS
    mv settings.tmp settings.toml
fi
# The services run as this user, and keep editions there.
chown -R 65532:65532 /settings
cat api-key
