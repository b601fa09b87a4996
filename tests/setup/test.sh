#!/usr/bin/env bash
# What `make test` needs: stock Python stubs, both grpcurls, the health prober, the load maker, proxies, Node for Dropbox's
# SDK, PostgreSQL with pgbouncer.
. "$(dirname "$0")/common.sh"
bash tests/setup/prerequisites.sh

once python tests/setup/requirements.txt tests/setup/common.sh -- python_tools || die "could not get the Python packages"
once go tests/setup/common.sh -- go_tool || die "could not get a Go toolchain"
once go-tools tests/setup/common.sh -- go_tools || die "could not get grpcurl, grpc_health_probe and ghz"
once node tests/setup/common.sh -- node_tool || die "could not get Node"
once proxies tests/setup/common.sh -- proxies || die "could not get tinyproxy, microsocks and dante (see .tools/apt.log)"
postgres_server || die "could not get PostgreSQL 15 or newer and pgbouncer (Debian: postgresql pgbouncer openssl)"
# Dropbox's own SDKs, which must work against the emulator unchanged.
PATH="$BIN:$PATH" bash tests/sdk/setup.sh || die "could not get Dropbox's Python and JavaScript SDKs"
once browser tests/setup/common.sh -- browser || die "could not get Chromium with its driver (Debian: chromium chromium-driver)"
say "tools ready in .tools/bin"
