# goldsmith's own commands. "make help" lists them.

GO      ?= go
VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo dev)
LDFLAGS  = -s -w -buildid= -X main.version=$(VERSION)
PROGRAMS = $(notdir $(wildcard cmd/*))

# Programs that elements put into images name no version and no commit: an
# image must not change because an unrelated file of this repository did.
IMAGE_PROGRAMS = applycfg refreshcfg collectcfg imgagent imginit imgtools imgupdate
# imginit is built without inlining: every initramfs is a tenth of it smaller.
HOST_PROGRAMS  = $(filter-out $(IMAGE_PROGRAMS),$(PROGRAMS))

# The programs that imgbuild is by other names.
ORIGINALS = disk-image-create ramdisk-image-create diskimage-builder element-info

.PHONY: help build deps check test race system-test system-core proof bench bench-boot bench-config bench-refresh bench-update torture demo demo-first demo-metal deb clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

build: ## build all programs into bin/
	@command -v $(GO) >/dev/null || { echo "make: Go is not installed; goldsmith needs Go 1.26 or newer (https://go.dev/doc/install)" >&2; exit 3; }
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $(HOST_PROGRAMS:%=./cmd/%)
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -buildid=' -o bin/ $(patsubst %,./cmd/%,$(filter-out imginit,$(IMAGE_PROGRAMS)))
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -gcflags=all=-l -ldflags '-s -w -buildid=' -o bin/ ./cmd/imginit
	@for name in $(ORIGINALS); do ln -sf imgbuild bin/$$name; done

deps: ## install what is missing on this machine (root, Debian)
	ci/install-deps.sh

check: ## format, vet, static analysis, shell scripts
	ci/check.sh

test: ## the fast tier: every change, minutes
	$(GO) test ./...

# Without GORACE each process that a test starts sleeps a second before it ends.
RACE = ./internal/command ./internal/atomicfile ./internal/chunk ./internal/registry ./internal/update/fetch ./internal/imagebuild ./internal/refreshcfg ./internal/collectcfg ./internal/deploy/... ./internal/machineapi ./internal/store ./internal/api ./internal/promotion ./pipeline/... ./testbed/...
race: ## the packages in which things happen at the same time, under the race detector; LATER= leaves some out
	GORACE=atexit_sleep_ms=10 $(GO) test -race $(filter-out $(LATER),$(shell $(GO) list $(RACE)))

system-test: build ## the system tier: boots machines
	$(GO) test ./tests -system -timeout 150m -v -count 1

system-core: build ## the part of the system tier that continuous integration runs
	$(GO) test ./tests -core -timeout 20m -count 1

demo: deps build ## the whole way of an image: virtual machine, server, upgrades, staging and production (root)
	ci/demo.sh

demo-first: deps build ## the same of the demo's first version alone, which nothing is upgraded to (root)
	ci/demo.sh --first

demo-metal: deps build ## rehearse servers: deploy by PXE behind management controllers, test and upgrade (root)
	ci/demo-metal.sh

proof: build ## compare with the originals over all cases, and write the table in docs/compatibility.md
	ci/proof.sh

bench: build ## measure builds of set M beside other builders' (root, a mirror); BENCH_PEERS="mmdebstrap dib"
	ci/bench.sh

bench-config: build ## measure applycfg beside os-apply-config and a loop that copies the same files
	ci/bench-config.sh

bench-boot: build ## measure boots beside initramfs-tools and cloud-init (root, QEMU, a mirror)
	ci/bench-boot.sh

bench-refresh: build ## measure refreshcfg beside os-refresh-config and bare scripts
	ci/bench-refresh.sh

bench-update: build ## measure the bytes of an update beside casync's (a mirror)
	ci/bench-update.sh

deb: build ## make Debian packages of all programs in dist/
	packaging/build.sh

N ?= 10
torture: build ## the torture tier: N times, figures go to docs/reliability.md
	$(GO) test ./tests -torture $(N) -timeout 24h -v -count 1

clean: ## remove programs and run records
	rm -rf bin dist .goldsmith
