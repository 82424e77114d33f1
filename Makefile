# Everything is one line over cargo xtask. Root is needed for demo, test and bench: they make network namespaces.
.PHONY: demo demo-down test check bench audit mutants long kernels conformance cluster cluster-down packages help

help:            ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 18

packages:
	@scripts/packages

demo:            ## three nodes, the scenarios with a table of results, then a lab to look around in
	@scripts/packages demo
	@cargo xtask demo

# The demo's own build is all that is wanted: nothing is built anew to take a lab down.
demo-down:       ## removes the demo's labs
	@bowline="$${CARGO_TARGET_DIR:-target}/debug/bowline"; if [ -x "$$bowline" ]; then "$$bowline" lab down --name demo; else cargo xtask demo-down; fi

test:            ## everything that a change must pass
	@scripts/packages test
	@cargo xtask test

check:           ## formatting, lints, tests without root: what an editor's save wants
	@cargo xtask check

bench:           ## measurements beside their peers, as ratios (BENCHES=...)
	@scripts/packages bench
	@cargo xtask bench $(BENCHES)

audit:           ## advisories against the dependencies (needs cargo-deny and its database)
	@cargo xtask audit

long:            ## the full figures of the tests with packets, and many more random clusters: hours
	@scripts/packages test
	@cargo xtask long

mutants:         ## changes what decides on policies, one thing at a time: the tests must notice each (needs cargo-mutants)
	@scripts/packages test
	@cargo xtask mutants

kernels:         ## tests on the kernels of Debian 12 and 13, in virtual machines by emulation (KERNELS=...)
	@scripts/packages kernels
	@cargo xtask kernels $(KERNELS)

conformance:     ## the outside suites on a real cluster, with a table of results (SUITES=..., FOCUS=...)
	@scripts/packages cluster
	@cargo xtask conformance $(SUITES) $(if $(FOCUS),--focus '$(FOCUS)')

cluster:         ## a real Kubernetes cluster of two nodes on this machine, with Bowline as its network
	@scripts/packages cluster
	@cargo xtask cluster up

cluster-down:    ## removes it
	@cargo xtask cluster down
