#!/usr/bin/env bash
# Instructions of the hot loops against tests/counts/budgets.txt; more than a tenth above a budget fails. `run.sh write` writes the
# file anew. The loops are the unit tests called `…_is_counted`; what they do within `counted_tests::counted` is counted.
#
# It is the binary of `make test`, so this builds nothing more: this crate at opt-level 1, all others at 3, overflow checked. These are
# not the numbers of a release, whose build would take ten minutes more; a copy or a step too many shows in them all the same.
# Valgrind's CPU is the same wherever the machine has AVX2. It has no SHA instructions: the hash is `sha2`'s portable one. Its copies
# of some kilobytes are `rep movsb`, which counts one instruction for each byte.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
BUDGETS=tests/counts/budgets.txt
CARGO=${CARGO:-cargo}

# The profile of Cargo.toml, whatever the environment says of it.
built=$(env -u CARGO_PROFILE_DEV_OPT_LEVEL -u CARGO_PROFILE_DEV_DEBUG -u CARGO_PROFILE_TEST_DEBUG \
    $CARGO test --lib --no-run --message-format=json \
    | sed -n 's/.*"executable":"\([^"]*dropbox_connector-[^"]*\)".*/\1/p' | tail -n 1)
[ -x "$built" ] || { echo "counts: no test binary was built" >&2; exit 1; }

machine=$(uname -m)
if grep -qw avx2 /proc/cpuinfo; then machine="$machine-avx2"; fi
mapfile -t loops < <("$built" --list --format terse _is_counted | sed -n 's/\(_is_counted\): test$/\1/p')
[ ${#loops[@]} -gt 0 ] || { echo "counts: no loop is called …_is_counted" >&2; exit 1; }

profile=$(mktemp)
trap 'rm -f "$profile" "$profile.log"' EXIT

# count LOOP WITHOUT: instructions within the loop, without functions whose names hold WITHOUT.
count() {
    .tools/bin/valgrind -q --tool=callgrind --callgrind-out-file="$profile" --toggle-collect='*counted_tests::counted*' \
        "$built" --exact "$1" --test-threads=1 >"$profile.log" 2>&1 || { cat "$profile.log" >&2; return 1; }
    # Costs are lines of a position and a number; behind `calls=` comes one of what was called, which is counted there.
    awk -v without="$2" '
        /^c?fn=/ {
            id = $0; sub(/^c?fn=/, "", id); name = id; sub(/\).*/, ")", id)
            if (name ~ /\) /) { sub(/^[^ ]* /, "", name); names[id] = name }
            if ($0 ~ /^fn=/) left_out = without != "-" && index(names[id], without) > 0
            next
        }
        /^calls=/ { getline; next }
        /^[0-9+*-]/ { if (!left_out) sum += $2 }
        END { printf "%.0f\n", sum }
    ' "$profile"
}

budget() { awk -v loop="$1" '$1 == loop { print $2, $3 }' "$BUDGETS"; }

failed=0
written=$(mktemp)
sed -n '/^#/p' "$BUDGETS" | sed "s/^# machine: .*/# machine: $machine/" >"$written"
held=$(sed -n 's/^# machine: //p' "$BUDGETS")
for loop in "${loops[@]}"; do
    read -r without allowed < <(budget "$loop") || { without=- allowed=0; }
    counted=$(count "$loop" "$without")
    [ "$counted" -gt 0 ] || { echo "counts: $loop: nothing was counted" >&2; failed=1; }
    printf '%s %s %s\n' "$loop" "$without" "$counted" >>"$written"
    verdict=held
    if [ "${1:-}" = write ]; then
        verdict=written
    elif [ "$held" != "$machine" ]; then
        verdict="not held: budgets are for $held"
    elif [ "$allowed" = 0 ]; then
        verdict="NO BUDGET: run.sh write" failed=1
    elif [ $((counted * 10)) -gt $((allowed * 11)) ]; then
        verdict="TOO MANY" failed=1
    elif [ $((counted * 10)) -lt $((allowed * 9)) ]; then
        verdict="held, by more than a tenth: run.sh write"
    fi
    printf '%14d of %14d  %s: %s\n' "$counted" "$allowed" "$loop" "$verdict"
done
while read -r loop _; do
    printf '%s\n' "${loops[@]}" | grep -qxF "$loop" || { echo "counts: $BUDGETS names $loop, which is no loop" >&2; failed=1; }
done < <(sed '/^#/d' "$BUDGETS")
if [ "${1:-}" = write ]; then cp "$written" "$BUDGETS"; failed=0; fi
rm -f "$written"
exit $failed
