##@ Everyday

.DEFAULT_GOAL := help
CHDB := scripts/fetch-chdb.sh
# Python writes no caches into the tree.
TRAIN = cd ml && PYTHONDONTWRITEBYTECODE=1 "$$(../scripts/python-env.sh train)" -m attribution_ml

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: chdb onnxruntime ## Build the release binary and attribute 88,387 real journeys, end to end
	cargo build --release --locked -p attribution-cli
	scripts/demo.sh

# The program that starts the servers is built for itself: what tests turn on is not to be in the services.
.PHONY: demo-cluster
demo-cluster: chdb ## The same demo through a process for each service, over real Kafka, CQL, Redis and ClickHouse
	cargo build --release --locked -p attribution-cli -p ingestion -p attribution-service -p query-api
	cargo build --release --locked -p testkit --bin cluster
	scripts/demo-cluster.sh

.PHONY: up
up: ## Build the images and start the cluster of docker-compose.yml on this machine
	docker compose up --build --detach --wait
	docker compose run --rm first-start

.PHONY: down
down: ## Stop it; data stay in volumes
	docker compose down

.PHONY: run
run: chdb onnxruntime ## Start the platform on embedded stores in ./data
	cargo run --release --locked -p attribution-cli -- serve --data ./data

##@ Checking

# Clippy compiles what it lints. Where it compiles the tests, nothing has to be checked before and compiled again.
test test-build test-apart test-others test-faults: export RUSTC_WORKSPACE_WRAPPER := clippy-driver
test test-build test-apart test-others test-faults: export CLIPPY_ARGS := -Dwarnings

# What is fetched comes in while the tests are compiled.
.PHONY: test
test: ## Lint, run every test, and check what deploys
	+$(MAKE) --no-print-directory --jobs=2 fmt-check proto-lint test-build \
		chdb onnxruntime mlserver servers deploy-tools train-check
	+$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-now test-apart check-deploy

.PHONY: test-build
test-build:
	cargo test --workspace --locked --no-run

# The suites that wait for most of their time run beside the others, and tell what they said when all of them are done.
SUITES := $(basename $(notdir $(wildcard */*/tests/*.rs))) $(notdir $(patsubst %/main.rs,%,$(wildcard */*/tests/*/main.rs)))
APART := kafka kafka_cluster

.PHONY: test-apart
test-apart:
	cargo test --workspace --locked $(addprefix --test ,$(APART))

.PHONY: test-now
test-now:
	+@$(MAKE) --no-print-directory --output-sync=none test-others

.PHONY: test-others
test-others: OTHERS = $(filter-out $(APART),$(sort $(SUITES)))
test-others:
	cargo test --workspace --locked --lib --bins --examples $(addprefix --test ,$(OTHERS))
	cargo test --workspace --locked --doc

# With the features that `test` has: for a package alone everything is compiled once more.
FAULT_SUITES := crashes damage simulation plain release bodies rules edge faults

.PHONY: test-faults
test-faults: chdb servers ## Run the suites of faults alone; they are part of `test`
	cargo test --workspace --locked $(addprefix --test ,$(FAULT_SUITES))

SEEDS ?= 2000

.PHONY: soak
soak: soak-simulation soak-kills soak-load ## Run the long suites: SEEDS seeds from SEED on, ROUNDS kills, STOPS stops, half an hour of load

.PHONY: soak-simulation
soak-simulation:
	SEED=$(or $(SEED),100) SEEDS=$(SEEDS) cargo test --locked -p attribution-service --test simulation -- seeds::every_seed order::order

ROUNDS ?= 500
STOPS ?= 100

# The real process: killed at random, stopped under load, its warehouse killed, killed at every fail point.
.PHONY: soak-kills
soak-kills: chdb
	FAULTS_ROUNDS=$(ROUNDS) cargo test --locked -p attribution-cli --test faults -- --nocapture killed_at_random
	FAULTS_ROUNDS=$(STOPS) cargo test --locked -p attribution-cli --test faults -- --nocapture stopped_under_load with_its_warehouse
	FAULTS_ROUNDS=10 cargo test --locked -p attribution-cli --test faults -- --nocapture killed_between

# The release binary: killed every minute for half an hour at 70 % of its peak, then flooded.
.PHONY: soak-load
soak-load: chdb
	cargo build --release --locked -p attribution-cli -p bench
	target/release/bench soak kills
	target/release/bench soak overload

.PHONY: lint
lint: fmt-check proto-lint ## Formatting, clippy with warnings as errors, buf lint
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: fmt-check
fmt-check:
	cargo fmt --all --check

.PHONY: proto-lint
proto-lint: ## Lint the contracts, and check them against the main branch for breaking changes
	scripts/buf.sh

.PHONY: compose-lint
compose-lint: ## Hold docker-compose.yml and what it mounts to the programs
	cargo build --locked -p ingestion -p attribution-service -p query-api -p ml-gateway
	scripts/check-compose.sh

.PHONY: deny
deny: ## Licences, advisories and banned crates (needs cargo-deny)
	cargo deny check

.PHONY: check-deploy
check-deploy: ## Check manifests, rules, workflows and infrastructure (installs pinned tools into .tools)
	scripts/check-deploy.sh quick

.PHONY: check-deploy-full
check-deploy-full: ## The same after building a Kubernetes API server and istioctl (ten minutes the first time), and checkov
	scripts/check-deploy.sh full

.PHONY: drill
drill: drill-process drill-cluster ## Lose data under load and get them back, of a process and of a cluster; prints the time it took and what was lost

.PHONY: drill-process
drill-process: chdb
	cargo build --release --locked -p attribution-cli
	ops/drill.py --program $${CARGO_TARGET_DIR:-target}/release/attribution

# Over real Kafka, CQL, Redis and ClickHouse; it is part of `test` with fewer persons.
.PHONY: drill-cluster
drill-cluster: chdb
	cargo build --locked -p ingestion -p attribution-service -p query-api
	DRILL_PERSONS=$(or $(DRILL_PERSONS),500) cargo test --locked -p attribution-cli --test drill -- --nocapture

##@ Models

.PHONY: train
train: ## Train the models again from their seeds and write them into ml/models
	$(TRAIN)

.PHONY: train-check
train-check: ## Train them aside and compare their metrics with the committed ones
	$(TRAIN) --check

##@ Measuring

.PHONY: bench
bench: chdb onnxruntime mlserver ## Measure against the machine's limits (ROWS=http-batch,log-append for some, BENCH_SCALE=0.05 for a smoke run)
	cargo build --release --locked -p attribution-cli -p bench
	target/release/bench run

# A list that $(or) would take for its arguments.
CLUSTER_ROWS = kafka,redis,cql

# The program that starts the servers is built for itself: what tests turn on is not to be in what is measured.
.PHONY: bench-cluster
bench-cluster: ## Measure the rows that want real servers: Kafka, CQL, Redis
	cargo build --release --locked -p attribution-cli -p bench
	cargo build --release --locked -p testkit --bin cluster
	$${CARGO_TARGET_DIR:-target}/release/cluster --servers $${CARGO_TARGET_DIR:-target}/release/bench run --rows $(or $(ROWS),$(CLUSTER_ROWS))

.PHONY: profile
profile: chdb ## Record a row's server with perf and draw a flame graph: make profile ROW=http-batch
	cargo build --release --locked -p attribution-cli -p bench
	PATH="$$(scripts/install-inferno.sh):$$PATH" target/release/bench profile $(or $(ROW),$(error name a row, such as ROW=http-batch))

##@ Tools

.PHONY: chdb
chdb: ## Fetch the embedded ClickHouse engine into the cache
	@$(CHDB) >/dev/null

.PHONY: onnxruntime
onnxruntime: ## Fetch ONNX Runtime, which runs models, into the cache
	@scripts/fetch-onnxruntime.sh >/dev/null || echo "without it no models are served" >&2

.PHONY: mlserver
mlserver: ## Install the model server that tests talk to into the cache
	@scripts/python-env.sh peer >/dev/null

SERVERS := $(strip $(if $(KAFKA_URL),,kafka) $(if $(SCYLLA_URL),,cassandra) $(if $(REDIS_URL),,redis))

.PHONY: servers
servers: ## Fetch the real servers that tests start, but those that KAFKA_URL, SCYLLA_URL and REDIS_URL name
	@$(if $(SERVERS),scripts/fetch-servers.sh $(SERVERS) >/dev/null,:)

.PHONY: deploy-tools
deploy-tools: ## Install what checks the deployment into .tools
	@scripts/deploy-tools.sh light

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all
