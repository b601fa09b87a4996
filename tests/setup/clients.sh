#!/usr/bin/env bash
# What `make test-clients` needs beyond `make test`: a JDK with Maven, and a browser.
. "$(dirname "$0")/common.sh"
bash tests/setup/test.sh
java_tools || die "could not get a JDK 17 with Maven (Debian: openjdk-17-jdk-headless maven)"
have chromium || apt chromium || die "could not get a browser (Debian: chromium)"
say "client toolchains ready"
