# torbpf: `make help` lists what there is to do.
SHELL := /bin/bash
.SHELLFLAGS := -Eeuo pipefail -c
.DEFAULT_GOAL := build

GO ?= go
IFACE ?=
ARGS ?=
FUZZTIME ?= 60
MINUTES ?= 30
COMPARE ?=
KERNELS ?=
OUT ?=
CHART ?=
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
UNITDIR ?= $(SYSCONFDIR)/systemd/system
INIT ?= $(if $(wildcard /sbin/openrc-run),openrc,systemd)
PROGRAM ?= ./torbpf
TOOL ?= ./torbpf
EXTRAS ?= yes
DATE ?=
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.12.0

export CGO_ENABLED := 0

##@ Use

.PHONY: attach
attach: deps-run build ## Put the devices behind IFACE on Tor: sudo make attach IFACE=eth1 ARGS="--torrc /etc/torbpf/bridges"
	@test -n "$(IFACE)" || { echo "which interface? sudo make attach IFACE=eth1" >&2; exit 2; }
	./torbpf attach $(IFACE) $(ARGS)

.PHONY: demo
demo: deps-demo build ## Show it without a LAN: attach, status and detach on a private Tor network in namespaces
	$(GO) run ./testnet/cmd/demo ./torbpf

.PHONY: install
install: build install-files ## Install the program, its service, man pages and shell completions below PREFIX
	test -n "$(DESTDIR)" || ! test -d /run/systemd/system || systemctl daemon-reload

# The packages are laid out by this as well.
.PHONY: install-files
install-files:
	install -D -m 755 $(PROGRAM) $(DESTDIR)$(PREFIX)/sbin/torbpf
	$(MAKE) --no-print-directory install-$(INIT)
	$(if $(EXTRAS),$(MAKE) --no-print-directory install-extras)
	install -D -m 644 packaging/torbpf.toml $(DESTDIR)$(PREFIX)/share/doc/torbpf/torbpf.toml

.PHONY: install-systemd install-openrc install-procd
install-systemd:
	install -d $(DESTDIR)$(UNITDIR)
	sed 's|@SBINDIR@|$(PREFIX)/sbin|' packaging/systemd/torbpf.service.in >$(DESTDIR)$(UNITDIR)/torbpf.service

install-openrc install-procd: install-%:
	install -d $(DESTDIR)$(SYSCONFDIR)/init.d
	sed 's|@SBINDIR@|$(PREFIX)/sbin|' packaging/$(if $(filter openrc,$*),openrc,openwrt)/torbpf.in >$(DESTDIR)$(SYSCONFDIR)/init.d/torbpf
	chmod 755 $(DESTDIR)$(SYSCONFDIR)/init.d/torbpf

# What a router with little flash does without.
.PHONY: install-extras
install-extras:
	install -d $(addprefix $(DESTDIR)$(PREFIX)/share/,man/man5 man/man8 bash-completion/completions zsh/site-functions fish/vendor_completions.d)
	$(TOOL) manual --date "$(DATE)" >$(DESTDIR)$(PREFIX)/share/man/man8/torbpf.8
	$(TOOL) manual --date "$(DATE)" --reference packaging/torbpf.toml >$(DESTDIR)$(PREFIX)/share/man/man5/torbpf.toml.5
	$(TOOL) completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/torbpf
	$(TOOL) completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_torbpf
	$(TOOL) completion fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/torbpf.fish
	install -D -m 644 packaging/grafana/torbpf.json $(DESTDIR)$(PREFIX)/share/doc/torbpf/grafana.json

##@ Build

.PHONY: build
build: ## Build ./torbpf; needs nothing but Go
	$(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o torbpf ./cmd/torbpf

.PHONY: packages
packages: ## Build deb, rpm, apk and OpenWrt packages below dist/: make packages ARCHS="amd64 arm64" FORMATS=deb
	./packaging/packages.sh "$(VERSION)"

.PHONY: generate
generate: ## Compile the BPF programs and regenerate their Go side (clang 14, llvm, libbpf-dev)
	cd internal/abi && $(GO) generate .

##@ Test

.PHONY: test
test: deps-systemd build ## Install what is missing, then run every test: sudo make test
	$(MAKE) lint check-generated test-vm-short
	$(GO) test -count=1 -timeout 40m -p 2 -exec "$(CURDIR)/.ci/alone.sh" ./...
	$(MAKE) fuzz
	$(MAKE) second-clang

.PHONY: test-vm
test-vm: deps-test ## The tests on other kernels, in virtual machines: make test-vm KERNELS="5.10 6.1" (docs/KERNELS.md)
	$(GO) run ./testnet/cmd/kernels run --write $(KERNELS)

.PHONY: test-vm-short
test-vm-short: deps-test ## That the programs load, attach and guard on the oldest and the newest kernel; make test does it
	$(GO) run ./testnet/cmd/kernels run --short --only loader 5.10 newest

.PHONY: kernels-doc
kernels-doc: ## Write docs/KERNELS.md anew from what test-vm has written down
	$(GO) run ./testnet/cmd/kernels page

.PHONY: lint
lint: ## Formatting, vet, and the limits on size and nesting
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "gofmt: $$unformatted" >&2; exit 1; }
	clang-format --dry-run -Werror bpf/*.h bpf/*.c
	shellcheck --exclude=SC1091 packaging/*.sh packaging/openrc/torbpf.in packaging/openwrt/torbpf.in
	for script in packaging/scripts/*-*.sh; do cat packaging/scripts/lib.sh $$script | shellcheck --shell=sh -; done
	$(GO) vet ./...
	$(GO) run $(GOLANGCI) run ./...

.PHONY: check-generated
check-generated: ## The committed BPF objects are what their source compiles to
	./internal/abi/check-generated.sh

.PHONY: second-clang
second-clang: deps-test ## The BPF programs by another compiler: the verifier takes them, and they judge alike
	./.ci/second-clang.sh clang-19

.PHONY: fuzz
fuzz: deps-test ## Fuzz the classifier against its model for FUZZTIME, and each reader for a tenth of it
	./.ci/fuzz.sh $(FUZZTIME)

.PHONY: test-systemd
test-systemd: deps-systemd build ## The unit under a real systemd: boot, watchdog, restarts alone (a minute; downloads a system)
	$(GO) test -count=1 -timeout 5m -v -run TestTheUnitUnderSystemd ./internal/e2e

.PHONY: leaktest
leaktest: deps-test build ## Every fault against every kind of packet: what leaks, and how long until all is well; ARGS='--with "--tor-instances 4"'
	$(GO) run ./testnet/cmd/leaktest $(ARGS) ./torbpf

.PHONY: soak
soak: deps-test build ## Faults at random for MINUTES, and what grows: sudo make soak MINUTES=30
	$(GO) run ./testnet/cmd/leaktest --soak $(MINUTES)m ./torbpf

.PHONY: bench
bench: deps-bench build ## Measure torbpf here beside the alternatives, in about 5 minutes: sudo make bench COMPARE=docs/bench.json
	$(GO) run -exec "$(CURDIR)/.ci/alone.sh" ./bench/cmd/bench $(if $(OUT),--out $(OUT)) $(if $(CHART),--chart $(CHART)) $(if $(COMPARE),--compare $(COMPARE)) $(ARGS) ./torbpf

.PHONY: bench-lists
bench-lists: deps-test ## Time lists of destinations: how they are read, merged and looked up
	$(GO) test -run "^$$" -bench List ./bench

##@ Other

.PHONY: deps-run
deps-run: ## Install what attaching needs: tor, Go
	./packaging/deps.sh run

.PHONY: deps-demo
deps-demo: ## Install what the demo needs, too
	./packaging/deps.sh demo

.PHONY: deps-test
deps-test: ## Install what the tests need, too
	./packaging/deps.sh test

.PHONY: deps-bench
deps-bench: ## Install what the benchmarks need, too
	./packaging/deps.sh bench

.PHONY: deps-systemd
deps-systemd: ## Install what test-systemd needs, too
	./packaging/deps.sh systemd

.PHONY: clean
clean: ## Remove what was built
	rm -rf torbpf dist

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
