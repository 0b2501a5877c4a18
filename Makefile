# peapod: build, test, show. `make` alone lists the targets.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
TAGS    := containers_image_openpgp,exclude_graphdriver_btrfs,containers_image_docker_daemon_stub
LDFLAGS := -s -w -X peapod.dev/peapod/internal/version.Version=$(VERSION)

# Packages of pure logic, which `make check` also runs under the race detector.
PURE := ./internal/agent/plan/... ./internal/agent/status/... ./internal/agent/probe/... ./internal/scheduler/... ./internal/version/...

GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

export CGO_ENABLED := 0
export GOFLAGS     := -buildvcs=false -tags=$(TAGS)

.DEFAULT_GOAL := help
.PHONY: help build faults run images demo test chaos check bench bench-scheduler deps clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the static binary bin/peapod
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/peapod ./cmd/peapod

faults: # build bin/peapod-faults, which test/chaos kills at its fault points
	$(GO) build -trimpath -tags=$(TAGS),faults -ldflags '$(LDFLAGS)' -o bin/peapod-faults ./cmd/peapod

run: build deps ## serve in the foreground on ./.peapod (root)
	./bin/peapod up --data-dir $(CURDIR)/.peapod

images: deps ## make the busybox and nginx images from Debian packages, into ./.images
	./scripts/images.sh

demo: build images ## see it work: bring up, run examples, show, take down (root)
	@./scripts/demo.sh

test: ## unit tests; as root also the tests that start real containers
ifeq ($(shell id -u),0)
	$(MAKE) --no-print-directory build faults images
	$(GO) test -timeout 20m ./cmd/... ./internal/... ./test/bench/...
	$(GO) test -timeout 30m -count=1 ./test/e2e/...
	$(GO) test -timeout 10m -count=1 ./test/chaos/...
else
	$(GO) test -timeout 20m ./cmd/... ./internal/... ./test/bench/...
	@echo
	@echo '*** SKIPPED: the tests that start real containers need root. Run: sudo make test ***'
endif

chaos: faults images ## kill peapod at every fault point, one after the other (root; about 15 minutes)
	$(GO) test -timeout 60m -count=1 ./test/chaos/... -v -all

check: ## formatting, vet, linter, race detector
	@unformatted=$$(gofmt -l cmd internal test); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }
	$(GO) vet ./cmd/... ./internal/... ./test/...
	$(GO) vet -tags=$(TAGS),faults ./internal/fault
	@if GOFLAGS= $(GO) run $(GOLANGCI_LINT) version >/dev/null 2>&1; \
	then GOFLAGS= $(GO) run $(GOLANGCI_LINT) run --build-tags $(TAGS) ./...; \
	else echo 'skipped: golangci-lint (it cannot be fetched and built here)'; fi
	@if CGO_ENABLED=1 $(GO) env CC | xargs which >/dev/null 2>&1; \
	then CGO_ENABLED=1 $(GO) test -race $(PURE); \
	else echo 'skipped: race detector (it needs a C compiler)'; fi

bench: build images ## measure, side by side with podman (root)
	@./scripts/install-deps.sh --bench
	$(GO) run ./test/bench -peapod bin/peapod -images .images

bench-scheduler: ## measure the scheduler with 5,000 nodes and 10,000 Pods: the decisions alone, then through an API server
	$(GO) test ./internal/scheduler -run '^$$' -bench Cycle -benchtime 1x
	$(GO) run ./test/bench/scheduler

deps: # what peapod runs on this machine: installed when missing
	@./scripts/install-deps.sh

clean: ## remove what was built here
	rm -rf bin .images
