#!/usr/bin/env bash
# What `make counts` needs: Valgrind, the machine's or Debian's; where nothing may be installed, unpacked into .tools.
. "$(dirname "$0")/common.sh"

valgrind_tool() {
    if have valgrind || apt valgrind; then
        wrap valgrind "$(command -v valgrind)"
        return
    fi
    have apt-get && have dpkg-deb || return 1
    say "unpacking Debian's valgrind into .tools"
    rm -rf "$TOOLS/valgrind"
    mkdir -p "$TOOLS/valgrind"
    (cd "$TOOLS/valgrind" && apt-get download -q valgrind && dpkg-deb -x valgrind_*.deb .) >>"$TOOLS/apt.log" 2>&1 || return 1
    printf '#!/bin/sh\nVALGRIND_LIB="%s" exec "%s" "$@"\n' "$TOOLS/valgrind/usr/libexec/valgrind" \
        "$TOOLS/valgrind/usr/bin/valgrind" >"$BIN/valgrind"
    chmod +x "$BIN/valgrind"
    "$BIN/valgrind" --version >/dev/null
}
once valgrind tests/setup/counts.sh -- valgrind_tool || die "could not get Valgrind (Debian: valgrind)"
