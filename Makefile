# What there is to do here. Every target runs on its own; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

# Go from PATH, or from where its own packages put it; never downloaded, and
# nothing is built with cgo: one static program runs on every Linux.
export PATH := $(PATH):/usr/local/go/bin
export CGO_ENABLED := 0
export GOTOOLCHAIN := local

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
GOBUILD := go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
SCRIPTS := $(shell git ls-files 'cross/*.sh' 'cross/roots/*' .ci/run | grep -v '\.service$$')

SCRIPTS += $(wildcard packaging/*.sh packaging/deb/p*)

.PHONY: help setup build build/native build/s390x packages demo demo-app test test-long test-node test-kube fuzz-smoke bench bench-host bench-guest bench-shim lint man proto proto-release bootloader clean distclean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 15

setup: ## install and fetch what tests and demo need (root, network; once)
	@cross/setup.sh

build: build/native build/s390x ## build secexec, hostagent and containerd's shim, and the guest's s390x programs
build/native:
	@$(GOBUILD) -o build/ ./cmd/secexec ./hostagent
	@$(GOBUILD) -o build/containerd-shim-secexec-v2 ./shim
build/s390x:
	@GOARCH=s390x $(GOBUILD) -o build/s390x/ ./guestinit ./guestagent ./hostagent
	@GOARCH=s390x $(GOBUILD) -o build/s390x/containerd-shim-secexec-v2 ./shim

packages: ## build the Debian and RPM packages, to build/packages
	@cross/setup.sh packages
	@packaging/build.sh

demo: setup build ## seal a Debian system and run it on the emulated platform
	@cross/demo.sh

demo-app: setup build ## seal a container image, run it, fetch a page from it by its own TLS
	@cross/demo-app.sh

test: setup build ## all tests: native, s390x under qemu-user, booted guests
	@go vet ./...
	@cross/test.sh

test-long: setup build ## all tests with the long cases too
	@SECEXEC_LONG=1 cross/test.sh

test-node: setup ## packages and units in nodes with a systemd of their own (root)
	@SECEXEC_LONG=1 go test -count=1 -timeout 30m -v ./packaging/... ./cross/node

test-kube: setup build ## manifests, labels and placement by a real Kubernetes control plane, which it builds once
	@cross/setup.sh kube
	@cd cross/kube && go vet . && go test -count=1 -timeout 60m -v . -result ../../build/test-kube.md

fuzz-smoke: ## each fuzz target for 10 s
	@cross/fuzz.sh 10s

bench: build/native ## time the owner's commands beside their peers; results in build/bench
	@go run ./bench -out build/bench owner

bench-host: ## time hostagent beside libvirt, in a node of its own (root)
	@bench/host.sh build/bench-host

bench-guest: ## count guestinit's instructions beside initramfs-tools' and dracut's (root)
	@bench/guest.sh build/bench-guest

bench-shim: setup build ## time containerd's shim of sealed guests beside runc's (root)
	@bench/shim.sh build/bench-shim

lint: ## formatting, vet, shell scripts, generated code and blobs up to date
	@cross/setup.sh packages
	@bad=$$(git ls-files '*.go' | xargs gofmt -l); [[ -z $$bad ]] || { echo "gofmt these:"; echo "$$bad"; exit 1; }
	@go vet ./...
	@GOARCH=s390x go vet ./...
	@shellcheck $(SCRIPTS)
	@cross/proto.sh --check
	@go run ./proto/hostagent/compat
	@cross/bootloader.sh --check
	@echo "lint: ok"

man: ## rewrite man pages and completions from the commands
	@go test -count=1 -run TestPages ./cmd/secexec -update

proto: ## regenerate the Go code of proto/
	@cross/proto.sh

proto-release: ## for a release: write down the API, which later ones must keep
	@go run ./proto/hostagent/compat -write

bootloader: ## rebuild the boot loader's blobs from their sources
	@cross/bootloader.sh

clean: ## remove what build made; the cache stays
	rm -rf build

distclean: clean ## remove the cache too
	rm -rf .cache
