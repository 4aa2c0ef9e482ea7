# etcd.mk - etcd's Raft as a witness: its scripts, and its code in lockstep.
#
# Both need Debian's golang-etcd-server-dev and Go; `make deps-long` installs them.

.PHONY: check-etcd check-etcd-shipped check-lockstep

GOCODE     ?= /usr/share/gocode
etcd_raft   = $(GOCODE)/src/go.etcd.io/etcd/raft
etcd_needs  = test -d $(etcd_raft) && command -v go > /dev/null || { echo >&2 \
  "etcd: needs golang-etcd-server-dev and golang-go (apt install golang-etcd-server-dev golang-go, or make deps-long)"; exit 1; }
etcd_core  := $(call find,lib/raft/*.c)

check-long: check-etcd check-lockstep

check-etcd: $(O)/etcd/scripts-applied $(O)/etcd/oracle ## follow the scripts of etcd's Raft; V=1 lists what differs
	@$(O)/etcd/scripts-applied $(etcd_raft) $(O)/etcd/oracle $(if $(V),-v)

check-etcd-shipped: $(O)/etcd/scripts $(O)/etcd/oracle
	@$(O)/etcd/scripts $(etcd_raft) $(O)/etcd/oracle -v || :

check-lockstep: $(O)/etcd/lockstep $(O)/etcd/oracle ## run beside etcd's Raft for EVENTS random events, 1000000 if not said
	@$(O)/etcd/lockstep $(O)/etcd/oracle $(or $(SEED),1) $(or $(EVENTS),1000000)

$(O)/etcd/oracle: $(srcdir)/tests/etcd/oracle.go
	@$(etcd_needs)
	@mkdir -p $(@D)
	$(call say,GO)GO111MODULE=off GOFLAGS= GOPATH=$(GOCODE) go build -o $@ $<

$(O)/etcd/scripts $(O)/etcd/lockstep: $(O)/etcd/%: $(O)/tests/etcd/%.o $(O)/tests/etcd/cluster.o $(O)/libvshard.a
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(LDFLAGS) -o $@ $^ $(ALL_LIB)

applied := $(patsubst %.c,$(O)/etcd/applied/%.o,$(etcd_core) tests/etcd/scripts.c tests/etcd/cluster.c)
$(O)/etcd/scripts-applied: $(applied) $(O)/libvshard.a
	$(call say,LINK)$(CC) $(LDFLAGS) -o $@ $^ $(ALL_LIB)

$(O)/etcd/applied/%.o: $(srcdir)/%.c
	@mkdir -p $(@D)
	$(call say,CC)$(CC) -DVS_CONFIG_APPLIED=1 $(ALL_CPP) -I$(srcdir)/tests $(ALL_C) -MMD -MP -c -o $@ $<

-include $(applied:.o=.d) $(patsubst %,$(O)/tests/etcd/%.d,scripts cluster lockstep)
