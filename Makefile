##@ Everyday

.DEFAULT_GOAL := help
CHDB := scripts/fetch-chdb.sh

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: chdb ## Build the release binary and attribute 88,387 real journeys, end to end
	cargo build --release --locked -p attribution-cli
	scripts/demo.sh

.PHONY: run
run: chdb ## Start the platform on embedded stores in ./data
	cargo run --release --locked -p attribution-cli -- serve --data ./data

##@ Checking

.PHONY: test
test: chdb lint ## Lint, then run every test
	cargo test --workspace --locked

.PHONY: lint
lint: proto-lint ## Formatting, clippy with warnings as errors, buf lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: proto-lint
proto-lint: ## Lint the contracts, and check them against the main branch for breaking changes
	scripts/buf.sh

.PHONY: deny
deny: ## Licences, advisories and banned crates (needs cargo-deny)
	cargo deny check

##@ Tools

.PHONY: chdb
chdb: ## Fetch the embedded ClickHouse engine into the cache
	@$(CHDB) >/dev/null

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all
