#!/usr/bin/env bash
# The programs that `make bench` compares with, into .tools/: rclone built from its released module, Dropbox's Python and
# JavaScript SDKs as the tests have them, Apache OpenDAL's Python package; and the PostgreSQL server that figures need. Running it again is cheap.
. "$(dirname "$0")/../../tests/setup/common.sh"

rclone() {
    mkdir -p "$TOOLS/src/rclone"
    cp benches/peers/rclone.go "$TOOLS/src/rclone/main.go"
    go_build rclone github.com/rclone/rclone v1.76.0 . || return 1
    wrap rclone "$TOOLS/gobin/rclone"
}

opendal() {
    [ -x "$TOOLS/opendal/bin/python" ] || python3 -m venv "$TOOLS/opendal"
    pip_install "$TOOLS/opendal" --only-binary :all: opendal==0.47.12
}

once go tests/setup/common.sh -- go_tool || die "could not get a Go toolchain"
once node tests/setup/common.sh -- node_tool || die "could not get Node"
PATH="$BIN:$PATH" bash tests/sdk/setup.sh || die "could not get Dropbox's Python and JavaScript SDKs"
# Not a peer: parts of the run keep their state in it.
postgres_server || say "could not get PostgreSQL: the parts that need it say so in their rows"
# What is missing is named in the table of figures; the rest is measured.
once rclone benches/peers/setup.sh benches/peers/rclone.go -- rclone || say "could not build rclone (see .tools/go-build.log)"
once opendal benches/peers/setup.sh -- opendal || say "could not get Apache OpenDAL"
say "peers ready"
