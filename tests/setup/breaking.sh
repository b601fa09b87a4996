#!/usr/bin/env bash
# `buf breaking` against the last tag, before the first tag against main. Says so when there is nothing to compare with.
. "$(dirname "$0")/common.sh"

base=$(git describe --tags --abbrev=0 2>/dev/null || true)
if [ -z "$base" ]; then
    head=$(git rev-parse HEAD)
    for candidate in origin/main main; do
        commit=$(git rev-parse --verify --quiet "$candidate^{commit}" || true)
        if [ -n "$commit" ] && [ "$commit" != "$head" ]; then base=$candidate; break; fi
    done
fi
if [ -z "$base" ]; then
    echo "buf breaking: no tag yet and this is main itself: nothing to compare with"
    exit 0
fi
if ! git cat-file -e "$base:proto/buf.yaml" 2>/dev/null; then
    echo "buf breaking: $base has no proto yet: nothing to compare with"
    exit 0
fi
old=$(mktemp -d)
trap 'rm -rf "$old"' EXIT
git archive "$base" proto | tar -x -C "$old"
"$BIN/buf" breaking proto --against "$old/proto"
echo "buf breaking: nothing broken since $base"
