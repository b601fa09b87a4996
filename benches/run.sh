#!/usr/bin/env bash
# Builds the release binary and measures the figures; the table goes to benches/RESULTS.md.
# `benches/run.sh upload download` measures some of them and writes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
bash benches/peers/setup.sh
exec "${CARGO:-cargo}" bench --bench figures -- "$@"
