# A PostgreSQL server for tests, in a new folder under /tmp, on one port of loopback. Runs as a user that is not root.
# Standard input holds it: a line `stop` kills it as a power cut would, `start` starts it again, and its end, which is also
# the end of the tests however they ended, kills it and removes everything.
# Arguments: the folder of PostgreSQL's programs, the port. Tells `ready FOLDER` or `failed` and why.
set -u
bin=$1
port=$2
cd /
umask 077
folder=$(mktemp -d /tmp/dropbox-connector-postgres.XXXXXX)
server=

stop() {
    [ -n "$server" ] && kill -QUIT "$server" 2>/dev/null && wait "$server" 2>/dev/null
    server=
}

start() {
    "$bin/postgres" -D "$folder/data" -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
        -c max_connections=300 -c fsync=off -c full_page_writes=off -c ssl=on \
        -c ssl_cert_file="$folder/server.crt" -c ssl_key_file="$folder/server.key" \
        </dev/null >>"$folder/log" 2>&1 &
    server=$!
    until "$bin/pg_isready" -q -h 127.0.0.1 -p "$port"; do
        if ! kill -0 "$server" 2>/dev/null; then
            echo failed
            cat "$folder/log"
            exit 1
        fi
        sleep 0.02
    done
    echo "ready $folder"
}

trap 'stop; rm -rf "$folder"' EXIT
# A signal to the tests is theirs; this ends after them.
trap : INT TERM HUP

{
    "$bin/initdb" -D "$folder/data" -U tests -A trust -E UTF8 --locale=C --locale-provider=icu --icu-locale=en --no-sync &&
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 \
            -addext basicConstraints=critical,CA:FALSE -keyout "$folder/server.key" -out "$folder/server.crt"
} >"$folder/log" 2>&1 || { echo failed; cat "$folder/log"; exit 1; }
start
while read -r word; do
    case $word in
        stop) stop; echo stopped ;;
        start) start ;;
    esac
done
