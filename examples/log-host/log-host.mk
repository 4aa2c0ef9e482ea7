# log-host.mk - three real processes over TCP; included by the Makefile. Built where
# pkg-config finds libuv, and nothing else needs it.

log_host_src := $(call find,examples/log-host/*.c)
log_host     := $(O)/examples/log-host/log-host

$(O)/examples/log-host/%.o $(O)/bench/log_cluster/%.o: ALL_CPP := $(filter-out -I$(srcdir)/lib,$(ALL_CPP)) $(UV_CFLAGS)

$(log_host): $(log_host_src:%.c=$(O)/%.o) $(O)/libvshard.a
	$(call say,LINK)$(CC) $(LDFLAGS) -o $@ $^ $(UV_LIBS) $(ALL_LIB)

.PHONY: log-host
log-host: $(if $(UV_LIBS),$(log_host)) ## build the TCP host of the log, examples/log-host; needs libuv
	$(if $(UV_LIBS),,@echo "log-host needs libuv (make deps, then ./configure)"; exit 1)

-include $(log_host_src:%.c=$(O)/%.d)

.PHONY: log-host-test
check: log-host-test
log-host-test: $(if $(UV_LIBS),$(log_host) $(O)/bench/log_cluster/load)
	$(if $(UV_LIBS),@O=$(abspath $(O)) python3 -B $(srcdir)/tests/log_host.py,@echo 'skip log-host: built without libuv')
