# Needs Go, make and git; with a C compiler the tests also look for data races. All else is pinned in tools/go.mod.
GO       ?= go
ROUNDS   ?= 200
SEEDS    ?= 1000
SECONDS  ?= 60
FUZZTIME ?= 60s
BENCH    ?= .
PLATFORMS = linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64
LINT      = $(GO) tool -modfile=tools/go.mod golangci-lint
BUILD     = CGO_ENABLED=0 $(GO) build -trimpath
RAPID     = $(shell $(GO) list -f '{{range .TestImports}}{{if eq . "pgregory.net/rapid"}}{{$$.ImportPath}} {{end}}{{end}}' ./internal/...)

.DEFAULT_GOAL := help
.PHONY: help build test race check gen lint fmt sim seeds chaos chaos-cluster fuzz bench kpi demo demo-cluster hooks deploy-test release

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## compile the binary to bin/beaver
	$(BUILD) -o bin/ ./cmd/beaver

test: ## everything that must hold before a change goes in: checks, then all tests with the race detector; V=1 names each test
	@$(GO) -C tools run ./verify $(if $(V),-v)
race: ## the tests alone, with the race detector and the dear assertions
	$(GO) test -race -tags invariants ./...
check: ## the checks alone: generated code, format, vet, lint, dead code, other systems
	@$(GO) -C tools run ./verify -tests=false

gen: ## generate Go from api/**/*.proto
	$(GO) -C tools run ./protogen

lint: ## run the linters of .golangci.yml
	$(LINT) run ./...
fmt: ## format the Go files
	$(LINT) fmt

sim: ## simulate clusters for SECONDS=60 on all cores, or replay SEED=n with its trace
	@$(GO) run ./cmd/sim $(if $(SEED),-seed $(SEED),-seconds $(SECONDS))

seeds: ## run the seeded tests (simulated disk, models) with SEEDS=1000 seeds each
	BEAVER_SEEDS=$(SEEDS) $(GO) test -count=1 -timeout 4h ./internal/... && $(GO) test -count=1 -timeout 4h $(RAPID) -rapid.checks=$(SEEDS)
chaos: ## kill -9 real servers under load, ROUNDS=200 times, and count what was lost
	BEAVER_CHAOS_ROUNDS=$(ROUNDS) $(GO) test -count=1 -timeout 4h -v -skip Storm ./internal/chaos/

chaos-cluster: ## a cluster of real servers, with faults of all kinds, for SECONDS=300; SEED=n draws again
	BEAVER_CHAOS_SECONDS=$(if $(filter file,$(origin SECONDS)),300,$(SECONDS)) BEAVER_CHAOS_SEED=$(SEED) $(GO) test -count=1 -timeout 4h -v -run Storm ./internal/chaos/
fuzz: ## run every fuzzer for FUZZTIME=60s, one after the other
	@$(GO) -C tools run ./fuzz -time $(FUZZTIME)

bench: build ## Go benchmarks (BENCH=regexp), then the binary's own load test
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./...
	bin/beaver bench
kpi: build ## a cluster on this machine against its targets: failover, losses, lag, snapshots, rates; ONLY=part
	bin/beaver kpi $(if $(ONLY),--only $(ONLY))

demo: build ## real work, a kill -9 in the middle, and a count of what was lost
	bin/beaver demo
demo-cluster: build ## the same on three nodes: a leader killed, one cut off, one replaced, all restarted
	bin/beaver demo --cluster

deploy-test: build ## Debian's prometheus scrapes three nodes under load: every panel and alert of deploy/ must have data
	@$(GO) -C tools run ./deploycheck

hooks: ## install the pre-commit guard: format, vet, short tests with the race detector
	git config core.hooksPath .githooks

release: ## binaries for every platform, with checksums, in bin/release
	@rm -rf bin/release && mkdir -p bin/release && for p in $(PLATFORMS); do name=beaver-$${p%/*}-$${p#*/}; \
	  [ $${p%/*} = windows ] && name=$$name.exe; echo $$name; GOOS=$${p%/*} GOARCH=$${p#*/} $(BUILD) -o bin/release/$$name ./cmd/beaver || exit 1; \
	  done; cd bin/release && sha256sum beaver-* | tee SHA256SUMS
