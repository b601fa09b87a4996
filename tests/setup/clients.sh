#!/usr/bin/env bash
# What `make test-clients` needs beyond `make test`: a JDK with Maven.
. "$(dirname "$0")/common.sh"
bash tests/setup/test.sh
java_tools || die "could not get a JDK 17 with Maven (Debian: openjdk-17-jdk-headless maven)"
say "client toolchains ready"
