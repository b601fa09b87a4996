#!/bin/sh
# Puts the official Dropbox SDKs, at pinned versions, under .tools/ for tests/it/sdk.rs. Running it again is cheap.
set -eu
cd "$(dirname "$0")/../.."

python=.tools/sdk-python
if ! cmp -s tests/sdk/python/requirements.txt "$python/requirements.txt"; then
    rm -rf "$python"
    python3 -m venv "$python"
    "$python/bin/pip" install --quiet --disable-pip-version-check --requirement tests/sdk/python/requirements.txt
    cp tests/sdk/python/requirements.txt "$python/requirements.txt"
fi

javascript=.tools/sdk-javascript
if ! cmp -s tests/sdk/javascript/package-lock.json "$javascript/installed-lock.json"; then
    rm -rf "$javascript"
    mkdir -p "$javascript"
    cp tests/sdk/javascript/package.json tests/sdk/javascript/package-lock.json "$javascript/"
    npm ci --prefix "$javascript" --silent --no-audit --no-fund
    cp tests/sdk/javascript/package-lock.json "$javascript/installed-lock.json"
fi
