# Two commands do everything on a fresh Debian 12 with a Rust toolchain and root: `make demo` and `make test`.

SHELL := /bin/bash
# A kubectl that setup fetched is used before the machine's.
export PATH := $(CURDIR)/.tools/bin:$(PATH)

CARGO ?= cargo
# Tests that build whole clusters share two cores with their own daemons: more at once only makes all of them slow.
TEST_THREADS ?= 4
# Which rows of the benchmark table (`make bench B=B1,B11`); none = all.
B ?=
# Those whose ratios are held, and where the accepted ones are.
B_SHORT ?= B1,B2,B3,B4,B5,B7
ACCEPTED := bench/accepted.json
# `make demo KEEP=1` leaves the lab up; ARGS go to scripts/demo.sh as they are.
KEEP ?=
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test bench bench-short bench-accept lint build setup setup-build

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup build-causeway ## Two clusters, one mesh: bring them up, show it, take them down (KEEP=1 leaves them up)
	@scripts/demo.sh $(if $(KEEP),--keep) $(ARGS)

# The executable is built with the tests: alone it would have other features, and half of what it needs be built twice.
test: setup lint-run ## Format, lints and every test, with real packets
	@scripts/timed.sh "tests" $(CARGO) test --workspace --locked -- --test-threads $(TEST_THREADS)

bench: setup build-causeway ## The benchmark table, side by side with its anchors (B=B1,B11 chooses rows)
	@scripts/timed.sh "build" $(CARGO) build --release --locked -p causeway-bench -p causeway-kvstore \
		-p causeway-datapath -p causeway-mesh --bins --examples
	@scripts/timed.sh "build" $(CARGO) build --locked -p causeway-cli --example bench_route --example bench_burst \
		--example bench_churn
	@scripts/timed.sh "build" $(CARGO) build --profile optimised --locked -p causeway-cli --example bench_ipcache
	@$(CARGO) run --quiet --release --locked -p causeway-bench -- $(if $(B),--only $(B))

# A fifth of the work, over plaintext, with what the tests have built already: a release build takes longer than all of it
# on two processors, and a ratio that has fallen has fallen in either profile. Hence accepted.json has ratios of that build.
SHORT := target/debug/causeway-bench --short --plain --bin-dir target/debug --results target/bench/short.json

bench-short: setup-build ## Whether the ratios of the table are still those that were accepted (B_SHORT=B1 chooses rows)
	@scripts/timed.sh "build" $(CARGO) build --workspace --locked --bins --examples
	@scripts/timed.sh "bench-short" $(SHORT) --only $(B_SHORT) --check $(ACCEPTED)

bench-accept: ## Make the ratios of the last bench-short the accepted ones
	@$(SHORT) --accept $(ACCEPTED)

lint: setup-build lint-run ## Format and lints only

build: setup-build build-causeway ## The executable: target/debug/causeway

.PHONY: lint-run build-causeway
lint-run:
	@scripts/timed.sh "format" $(CARGO) fmt --all --check
	@scripts/timed.sh "lints" $(CARGO) clippy --workspace --all-targets --locked -- -D warnings

build-causeway:
	@scripts/timed.sh "build" $(CARGO) build --locked -p causeway-cli

setup:
	@scripts/setup.sh run

setup-build:
	@scripts/setup.sh build
