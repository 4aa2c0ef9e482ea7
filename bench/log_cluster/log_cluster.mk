# log_cluster.mk - three processes beside three of etcd; included by the Makefile.
#
#   make bench-log                          rate, failover, transfer: some ten minutes
#   make bench-log PROBES=quiet             ten minutes of both cores busy
#   make bench-log PROBES=rate ARGS='--rounds 9'
#
# etcd's part needs Debian's etcd-server, golang-go and golang-etcd-server-dev, and is
# left out where they are not.

log_load := $(O)/bench/log_cluster/load

$(log_load): $(O)/bench/log_cluster/load.o
	$(call say,LINK)$(CC) $(LDFLAGS) -o $@ $<

# Debian's Go packages are one GOPATH; nothing is fetched.
gocode := /usr/share/gocode
debian_go = $(firstword $(wildcard /usr/lib/go-1.19/bin/go /usr/bin/go))
etcd_load = $(if $(and $(debian_go),$(wildcard $(gocode)/src/go.etcd.io/etcd/clientv3),$(shell command -v etcd)),$(O)/bench/log_cluster/etcd-load)

$(O)/bench/log_cluster/etcd-load: $(srcdir)/bench/log_cluster/etcd/main.go
	@mkdir -p $(@D)
	$(call say,GO)cd $(<D) && GO111MODULE=off GOPATH=$(gocode) GOCACHE=$(abspath $(O))/gocache \
	    $(debian_go) build -o $(abspath $@) .

.PHONY: bench-log
bench-log: log-host $(log_load) $(etcd_load) ## three processes of the log beside etcd: PROBES='rate failover transfer quiet' ARGS=..
	$(if $(etcd_load),,@echo 'without etcd: etcd-server, golang-go and golang-etcd-server-dev are not all here')
	@python3 -B $(srcdir)/bench/log_cluster/measure.py --host $(log_host) --load $(log_load) \
	    $(if $(etcd_load),--etcd-load $(etcd_load)) $(ARGS) $(PROBES)

-include $(log_load).d
