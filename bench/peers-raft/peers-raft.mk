# peers-raft.mk - how the Raft core is measured beside etcd/raft; included by the Makefile.
#
#   make bench-raft                      ROUNDS=5 SECONDS_EACH=0.5 if not said
#
# Needs Go and Debian's golang-etcd-server-dev (etcd/raft 3.4.23), built in GOPATH mode.

GO     ?= go
GOCODE ?= /usr/share/gocode

.PHONY: bench-raft
bench-raft: $(O)/bench/raft_core $(O)/bench/etcd_raft ## measure the Raft core beside etcd/raft; ROUNDS, SECONDS_EACH
	@ROUNDS='$(ROUNDS)' SECONDS_EACH='$(SECONDS_EACH)' sh $(srcdir)/bench/peers-raft/run.sh $^
	@$(O)/bench/raft_core 0 idle

$(O)/bench/etcd_raft: $(srcdir)/bench/peers-raft/etcd.go
	$(call say,GO)GO111MODULE=off GOPATH=$(GOCODE) GOFLAGS= GOCACHE='$(abspath $(O))/bench/go' \
	  $(GO) build -o $@ $<
