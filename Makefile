# `make demo` shows what Weft does, `make test` tests everything; both install what they miss and say so.

CARGO ?= cargo
RELEASE := $(CURDIR)/target/release
# Tests that make hosts run in mount, PID and network namespaces of their own: nothing can leak, labs do not collide.
ISOLATED := $(CURDIR)/e2e/run-isolated.sh

# Where images of virtual machines are kept.
VM := $(CURDIR)/target/vm
# Looked up where it is used: the compiler is not asked for every other target.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')

.PHONY: help build demo lab test unit store kernel sim e2e bench bench-store check fmt bless deny clean
.PHONY: vagrant-dist vagrant-test vagrant-validate vm-test vm-test-here

help:
	@echo 'make demo    three virtual hosts, containers, names, a killed agent: the main job, end to end'
	@echo 'make test    every test          (unit, sim, store, kernel, e2e [NAME=...] run parts of it)'
	@echo 'make lab     three hosts that stay up, and what to type next'
	@echo 'make bench   throughput, latency, losses and footprint, beside those of others'
	@echo 'make bench-store  the store that a controller serves, beside etcd on the same disk'
	@echo 'make vm-test two and three virtual machines with a stock kernel, Docker and an agent each, and what befalls them'
	@echo 'make vagrant-dist  what `vagrant up` in vagrant/ installs; make vagrant-test tries that, in emulation'
	@echo 'make check   formatting, lints, purity of the pure crates'
	@echo 'make bless   rewrite the golden files from what the code says now'

build:
	@./e2e/need.sh build
	$(CARGO) build --release --workspace --bins

demo: build
	@./e2e/need.sh lab
	WEFT_BIN=$(RELEASE)/weft PATH=$(RELEASE):$$PATH $(ISOLATED) ./e2e/demo.sh
	@./e2e/need.sh docker || echo 'demo: no Docker engine can be had here, so its part is left out'
	! command -v dockerd >/dev/null || WEFT_BIN=$(RELEASE)/weft PATH=$(RELEASE):$$PATH $(ISOLATED) ./e2e/demo-docker.sh

lab: build
	@./e2e/need.sh lab
	$(RELEASE)/weft-lab up
	@./e2e/what-next.sh

test: unit store kernel e2e

# Everything that needs no namespaces of its own: pure logic, golden texts, the store's adapters, the simulation.
unit:
	@./e2e/need.sh build store
	$(CARGO) test --workspace --exclude weft-e2e --lib --bins
	$(CARGO) test -p weft-ipam -p weft-overlay -p weft-controller -p weft --tests
	$(CARGO) test -p weft-node-agent --test sim

sim:
	$(if $(SEED),WEFT_SIM_SEED=$(SEED)) $(if $(SEEDS),WEFT_SIM_SEEDS=$(SEEDS)) $(CARGO) test --release -p weft-node-agent --test sim -- --nocapture

# The store that a controller serves, against a real etcd: answers, death, loss of power, faults that must be found.
# WEFT_STORE_OPERATIONS=1000000 compares more answers.
store:
	@./e2e/need.sh build store
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$(ISOLATED) \
		$(CARGO) test -p weft-embedded-store --features faults
	WEFT_STORE_PROGRAM=$(CURDIR)/target/debug/weft-store-serve $(CARGO) test -p weft-overlay --features store --test store

# Adapters against the real kernel.
kernel:
	@./e2e/need.sh build lab test
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$(ISOLATED) $(CARGO) test -p weft-node-agent --test kernel --test firewall

# Real binaries, hosts as network namespaces, the store that a controller serves; some again on a real etcd.
# WEFT_LAB_ETCD_MEMBERS=1 runs all of them on etcd. A lab per test binary, two at a time.
e2e: build
	@./e2e/need.sh lab test store docker
	WEFT_BIN=$(RELEASE)/weft ./e2e/run-tests.sh $(if $(NAME),--test $(NAME))
	$(if $(NAME)$(WEFT_LAB_ETCD_MEMBERS),,WEFT_LAB_ETCD_MEMBERS=1 WEFT_BIN=$(RELEASE)/weft \
		./e2e/run-tests.sh --test networks --test store_faults)

# A program for any Debian guest: without a loader, for any x86-64. Other programs are not needed there.
vagrant-dist:
	@./e2e/need.sh build dist
	RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --release --locked -p weft --target $(HOST)
	./vagrant/pack.sh target/$(HOST)/release/weft

# Real machines under QEMU, emulated unless VM_ACCEL=kvm. SCENARIO=... runs one. Says so where the machine cannot do it,
# which fails with REQUIRE_VM=1.
vm-test:
	@./e2e/vm/can-run.sh || exit $$(( $$? == 75 ? 0 : 1 )); \
	$(MAKE) --no-print-directory vm-test-here

vm-test-here: vagrant-dist
	@./e2e/need.sh vm
	$(CARGO) build -p weft-e2e --bin weft-vm
	image=$$(./e2e/vm/image.sh $(VM)) && \
	WEFT_VM_IMAGE=$$image WEFT_VM_RUN=$(VM)/run $(ISOLATED) target/debug/weft-vm test $(SCENARIO)

# The real `vagrant up`, through libvirt in emulation: installs Vagrant and libvirt.
vagrant-test: vagrant-dist
	@./e2e/need.sh vm vagrant-libvirt
	./e2e/vm/vagrant-test.sh $(VM)

vagrant-validate:
	@./e2e/need.sh vagrant || echo 'vagrant-validate: Vagrant cannot be had here; the Vagrantfile is not validated'
	! command -v vagrant >/dev/null || (cd vagrant && VAGRANT_CHECKPOINT_DISABLE=1 vagrant validate --ignore-provider)

bench: build
	@./e2e/need.sh lab store docker
	WEFT_BIN=$(RELEASE)/weft $(ISOLATED) $(RELEASE)/weft-bench $(ARGS)

bench-store: build
	@./e2e/need.sh store
	$(RELEASE)/weft-bench-store --data-dir $(CURDIR)/target $(ARGS)

check: vagrant-validate
	@./e2e/need.sh build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy -p weft-embedded-store --all-targets --features faults -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' $(CARGO) doc --workspace --no-deps --document-private-items --quiet
	./e2e/check-purity.sh

fmt:
	$(CARGO) fmt --all

bless:
	BLESS=1 $(CARGO) test -p weft-overlay --test pure --test claims
	BLESS=1 $(CARGO) test -p weft --tests
	BLESS=1 $(CARGO) test -p weft-node-agent --lib firewall

# Licences, advisories and sources of dependencies, by cargo-deny (it fetches the advisory database).
deny:
	command -v cargo-deny >/dev/null || $(CARGO) install cargo-deny --locked
	cargo-deny check

clean:
	$(CARGO) clean
