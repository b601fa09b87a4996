#!/usr/bin/env bash
# Generates the stubs of the languages named, or of all: python go typescript browser. (Java's are made by Maven as it builds.)
# protoc is the one inside grpcio-tools, so no other is needed.
. "$(dirname "$0")/../setup/common.sh"

PROTOS=(proto/dropboxconnector/v1/*.proto)
protoc() { "$BIN/python" -m grpc_tools.protoc "$@"; }

generate_python() {
    mkdir -p clients/python/gen
    protoc -I proto --python_out=clients/python/gen --pyi_out=clients/python/gen --grpc_python_out=clients/python/gen "${PROTOS[@]}"
}

generate_go() {
    (cd clients/go && GOWORK=off GOBIN=$TOOLS/gobin "$BIN/go" install tool)
    protoc -I proto --plugin="$TOOLS/gobin/protoc-gen-go" --plugin="$TOOLS/gobin/protoc-gen-go-grpc" \
        --go_out=clients/go --go_opt=module=dropbox-connector/clients/go \
        --go-grpc_out=clients/go --go-grpc_opt=module=dropbox-connector/clients/go "${PROTOS[@]}"
}

generate_typescript() {
    local common
    common=$("$BIN/python" -c 'import google.rpc.status_pb2 as s, os; print(os.path.dirname(os.path.dirname(os.path.dirname(s.__file__))))')
    (cd clients/typescript && "$BIN/npm" ci --no-audit --no-fund --loglevel=error)
    mkdir -p clients/typescript/gen
    protoc -I proto -I "$common" --plugin=clients/typescript/node_modules/.bin/protoc-gen-ts_proto \
        --ts_proto_out=clients/typescript/gen --ts_proto_opt=outputServices=grpc-js,esModuleInterop=true,env=node,forceLong=bigint,oneof=unions-value,importSuffix=.js \
        "${PROTOS[@]}" google/rpc/status.proto google/rpc/error_details.proto
}

generate_browser() {
    (cd tests/clients/browser && "$BIN/npm" ci --no-audit --no-fund --loglevel=error)
    mkdir -p tests/clients/browser/gen
    protoc -I proto --plugin=tests/clients/browser/node_modules/.bin/protoc-gen-es \
        --es_out=tests/clients/browser/gen --es_opt=target=ts "${PROTOS[@]}"
}

[ $# -gt 0 ] || set -- python go typescript browser
for language in "$@"; do
    "generate_$language"
    say "$language stubs generated"
done
