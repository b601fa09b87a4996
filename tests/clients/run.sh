#!/usr/bin/env bash
# Runs every language's conformance checks and, over TLS, its example, a page in a browser, Kubernetes' way of probing, and a
# channel with the shipped service config before connectors that refuse, drain and die; against connectors with their emulators.
# Usage: run.sh [WHAT...]; without arguments all: python go typescript java tls browser probe channel. Takes the built debug
# binary.
. "$(dirname "$0")/../setup/common.sh"

CHECKS=8 # of each language; a check that did not run counts as failed
BINARY=${CONNECTOR_BINARY:-target/debug/dropbox-connector}
[ -x "$BINARY" ] || die "no $BINARY: run cargo build first"
[ $# -gt 0 ] || set -- python go typescript java tls browser probe channel
# The origin the page comes from has to be known before the connector starts.
PAGE_PORT=$("$BIN/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

work=$(mktemp -d)
emulator= restarter= guarded= sealed=
finish() {
    local one
    for one in $restarter $(cat "$work/server.pid" 2>/dev/null) $emulator $guarded $sealed; do
        kill "$one" 2>/dev/null && wait "$one" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap finish EXIT

# Waits until a file has what is looked for.
appears() {
    for _ in $(seq 300); do
        grep -qE "$2" "$1" 2>/dev/null && return
        sleep 0.1
    done
    cat "$work"/*.out "$work"/*.err >&2
    die "$1 does not tell '$2' within 30 s"
}

# The emulator is a process of its own, so that the connector can be killed and come back to what was there.
"$BINARY" emulator --json --in-memory >"$work/emulator.out" 2>"$work/emulator.err" &
emulator=$!
appears "$work/emulator.out" '}$'
dropbox() { "$BIN/python" -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$work/emulator.out" "$1"; }
"$BINARY" keys generate "$work/sealing.keys" >"$work/keys.out" || die "no key file: $(cat "$work/keys.out")"
UPSTREAM=(--allow-insecure-upstream --dropbox-api-url "$(dropbox api)" --dropbox-content-url "$(dropbox content)"
    --dropbox-notify-url "$(dropbox notify)" --dropbox-oauth-url "$(dropbox www)")

launch() { # DATA ADMIN PROBE HTTP, addresses to listen at
    "$BINARY" serve "${UPSTREAM[@]}" --store-url "sqlite://$work/store.db" --sealing-key-file "$work/sealing.keys" \
        --data-listen "$1" --admin-listen "$2" --probe-listen "$3" --http-listen "$4" \
        --grpc-web --grpc-web-origins "http://127.0.0.1:$PAGE_PORT" >>"$work/server.out" 2>>"$work/server.err" &
    echo $! >"$work/server.pid"
}
launch 127.0.0.1:0 127.0.0.1:0 127.0.0.1:0 127.0.0.1:0

# The addresses are printed at start: `listening data=… admin=… probe=… http=…`.
appears "$work/server.out" '^listening .* http='
told() { grep -ohE "(^|[[:space:]])$1=[^[:space:]]+" "$work/server.out" | head -n 1 | cut -d= -f2-; }
CONNECTOR_ADDRESS=$(told data) CONNECTOR_PARAMETER=demo CONNECTOR_RESTART=$work/restart
export CONNECTOR_ADDRESS CONNECTOR_PARAMETER CONNECTOR_RESTART

administer() {
    "$BIN/grpcurl" -plaintext -d "$2" "$(told admin)" "dropboxconnector.v1.DropboxAdminConnector/$1" >"$work/admin.out" 2>&1 \
        || die "$1: $(cat "$work/admin.out")"
}
administer CreateApplicationParameter "{\"applicationParameter\":{\"applicationParameterId\":\"demo\",\"displayName\":\"Clients\",
    \"appKey\":\"$(dropbox appKey)\",\"appSecret\":\"$(dropbox appSecret)\"}}"
administer ImportCredentials "{\"applicationParameterId\":\"demo\",\"refreshToken\":\"$(dropbox refreshToken)\"}"

# A check that makes the file has the connector killed; the file is gone when another one listens at the same addresses.
restarts() {
    while sleep 0.1; do
        [ -e "$CONNECTOR_RESTART" ] || continue
        kill -9 "$(cat "$work/server.pid")" || true
        launch "$(told data)" "$(told admin)" "$(told probe)" "$(told http)"
        until (: <"/dev/tcp/${CONNECTOR_ADDRESS/://}") 2>/dev/null; do sleep 0.05; done
        rm "$CONNECTOR_RESTART"
    done
}
restarts &
restarter=$!

run_python() { (cd clients/python && PYTHONPATH=gen "$BIN/python" conformance.py); }

run_go() {
    (cd clients/go && GOWORK=off "$BIN/go" vet ./... && GOWORK=off "$BIN/go" test -count=1 -v .) \
        | sed -nE 's/^ok .*//; s/^--- PASS: Test_([^ ]+).*/ok go \1/p; s/^--- FAIL: Test_([^ ]+).*/not ok go \1/p; s/^    .*/&/p'
}

run_typescript() { (cd clients/typescript && "$BIN/node" node_modules/typescript/bin/tsc -p . && "$BIN/node" gen/js/src/conformance.js); }

run_java() {
    # Maven colours the line its process begins with even in batch mode.
    (cd clients/java && mvn -q -B compile exec:java -Dexec.mainClass=example.Conformance) | sed 's/\x1b\[[0-9;]*m//g'
}

# A page of an allowed origin, and one of another.
run_browser() {
    head -c 5242917 /dev/urandom >"$work/page.bin"
    "$BINARY" put "$work/page.bin" /page.bin --server "http://$CONNECTOR_ADDRESS" --parameter "$CONNECTOR_PARAMETER" >&2
    "$BIN/node" tests/clients/browser/run.mjs "http://$CONNECTOR_ADDRESS" "$CONNECTOR_PARAMETER" /page.bin \
        "$work/page.bin" "$PAGE_PORT" "$(command -v chromium)"
}

example_python() { (cd clients/python && PYTHONPATH=gen "$BIN/python" example.py "$@"); }
example_go() { (cd clients/go && GOWORK=off "$BIN/go" run ./example "$@"); }
example_typescript() { (cd clients/typescript && "$BIN/node" node_modules/typescript/bin/tsc -p . && "$BIN/node" gen/js/src/example.js "$@"); }
example_java() { (cd clients/java && mvn -q -B compile exec:java -Dexec.mainClass=example.Example -Dexec.args="$*"); }

# Every example against a connector that wants a client certificate and a token.
run_tls() {
    local at= language
    certify() {
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -addext "subjectAltName=DNS:localhost" \
            -keyout "$work/$1.key" 2>>"$work/openssl.err" | openssl x509 -req -CA "$work/ca.crt" -CAkey "$work/ca.key" \
            -CAcreateserial -copy_extensions copy -days 2 -out "$work/$1.crt" 2>>"$work/openssl.err"
    }
    hash() { printf %s "$1" | openssl dgst -sha256 -r | cut -d' ' -f1; }
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority -keyout "$work/ca.key" \
        -out "$work/ca.crt" 2>>"$work/openssl.err"
    certify server
    certify client
    "$BINARY" serve --emulator --data-listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --probe-listen 127.0.0.1:0 \
        --http-listen 127.0.0.1:0 --tls-cert-file "$work/server.crt" --tls-key-file "$work/server.key" \
        --tls-client-ca-file "$work/ca.crt" --auth-mode token --admin-principals boss \
        --auth-tokens "boss:$(hash token-of-boss),billing:$(hash token-of-billing)" >"$work/sealed.out" 2>&1 &
    sealed=$!
    for _ in $(seq 300); do
        at=$(grep -oE '^listening .*' "$work/sealed.out") && break
        sleep 0.1
    done
    port() { sed -nE "s/.* $1=[^ ]*:([0-9]+).*/\1/p" <<<"$at"; }
    "$BIN/grpcurl" -cacert "$work/ca.crt" -cert "$work/client.crt" -key "$work/client.key" \
        -H "authorization: Bearer token-of-boss" \
        -d '{"applicationParameter":{"applicationParameterId":"demo","policy":{"allowedPrincipals":["billing"]}},"updateMask":{"paths":["policy.allowed_principals"]}}' \
        "localhost:$(port admin)" dropboxconnector.v1.DropboxAdminConnector/UpdateApplicationParameter >&2
    head -c 5242917 /dev/urandom >"$work/tls.bin"
    for language in python go typescript java; do
        if CONNECTOR_CA=$work/ca.crt CONNECTOR_CERT=$work/client.crt CONNECTOR_KEY=$work/client.key \
            CONNECTOR_TOKEN=token-of-billing "example_$language" "localhost:$(port data)" demo "$work/tls.bin" >"$work/example.out" 2>&1; then
            echo "ok tls $language"
        else
            echo "not ok tls $language: $(tail -n 3 "$work/example.out")"
        fi
    done
}

# What the kubelet sees of a connector whose callers need TLS and a token: three names healthy, an unknown one not.
run_probe() {
    (cd tests/clients/go/probe && GOWORK=off "$BIN/go" build -o "$TOOLS/gobin/probe" .)
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
        -keyout "$work/tls.key" -out "$work/tls.crt" 2>"$work/openssl.err"
    "$BINARY" serve --emulator --data-listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --probe-listen 127.0.0.1:0 \
        --http-listen 127.0.0.1:0 --tls-cert-file "$work/tls.crt" --tls-key-file "$work/tls.key" --auth-mode token \
        --auth-tokens "nobody:$(printf x | openssl dgst -sha256 -r | cut -d' ' -f1)" >"$work/guarded.out" 2>&1 &
    guarded=$!
    local wanted service code probe=
    for _ in $(seq 300); do
        probe=$(grep -ohE ' probe=[^[:space:]]+' "$work/guarded.out" | cut -d= -f2) && break
        sleep 0.1
    done
    while read -r wanted service; do
        code=0
        "$TOOLS/gobin/probe" "$probe" "$service" >"$work/kubelet.out" 2>&1 || code=$?
        if [ "$code" = "$wanted" ]; then echo "ok probe $service"; else echo "not ok probe $service: exit $code: $(cat "$work/kubelet.out")"; fi
    done <<<"0 readiness
0 liveness
0 dropboxconnector.v1.DropboxConnector
2 nobody"
}

# It starts connectors of its own, and ends them in all ways.
run_channel() {
    local binary
    binary=$(realpath "$BINARY")
    (cd tests/clients/go/channel && GOWORK=off "$BIN/go" vet . \
        && CONNECTOR_BINARY=$binary GOWORK=off "$BIN/go" test -count=1 -v .) \
        | sed -nE 's/^--- PASS: Test_([^ ]+).*/ok channel \1/p; s/^--- FAIL: Test_([^ ]+).*/not ok channel \1/p; s/^    .*/&/p'
}

passed=0 failed=0
for language in "$@"; do
    expected=$CHECKS
    case $language in
        probe) expected=4 ;;
        channel) expected=8 && { [ -d clients/go/dropboxconnectorv1 ] || bash tests/clients/generate.sh go || true; } ;;
        tls)
            expected=4
            for name in python typescript; do [ -d "clients/$name/gen" ] || bash tests/clients/generate.sh "$name" || true; done
            [ -d clients/go/dropboxconnectorv1 ] || bash tests/clients/generate.sh go || true
            ;;
        browser) expected=4 && bash tests/clients/generate.sh browser || true ;;
        java) ;;
        *) bash tests/clients/generate.sh "$language" || true ;;
    esac
    "run_$language" >"$work/$language.out" 2>"$work/$language.err" || true
    cat "$work/$language.out"
    good=$(grep -c '^ok ' "$work/$language.out" || true)
    if [ "$good" != "$expected" ]; then
        echo "$language: $good of $expected checks passed" >&2
        tail -n 40 "$work/$language.err" >&2
    fi
    passed=$((passed + good))
    failed=$((failed + (good < expected ? expected - good : 0)))
done
if [ "$failed" -gt 0 ]; then tail -n 40 "$work/server.err" >&2; fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
