#!/usr/bin/env bash
# What `make check` needs beyond the tests: cargo-deny, built once into .tools.
. "$(dirname "$0")/common.sh"
bash tests/setup/clients.sh

cargo_deny() {
    say "cargo-deny by cargo install (some minutes, once)"
    cargo install cargo-deny --version 0.20.2 --locked --quiet --root "$TOOLS/cargo" --target-dir "$TOOLS/cargo/target"
    rm -rf "$TOOLS/cargo/target"
    wrap cargo-deny "$TOOLS/cargo/bin/cargo-deny"
}
once cargo-deny tests/setup/check.sh -- cargo_deny || die "could not build cargo-deny"
