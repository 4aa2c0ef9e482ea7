# server.mk - a node as a process over TCP; included by the Makefile. Built where pkg-config
# finds libuv, and nothing else needs it.

server_src := $(call find,examples/server/*.c)
server     := $(O)/examples/server/server

$(O)/examples/server/%.o: ALL_CPP := $(filter-out -I$(srcdir)/lib,$(ALL_CPP)) $(UV_CFLAGS)

$(server): $(server_src:%.c=$(O)/%.o) $(O)/libvshard.a
	$(call say,LINK)$(CC) $(LDFLAGS) -o $@ $^ $(UV_LIBS) $(ALL_LIB)

.PHONY: server
server: $(if $(UV_LIBS),$(server)) ## build the TCP host of a cluster, examples/server; needs libuv
	$(if $(UV_LIBS),,@echo "server needs libuv (make deps, then ./configure)"; exit 1)

-include $(server_src:%.c=$(O)/%.d)

.PHONY: server-test
check: server-test
server-test: $(if $(UV_LIBS),$(server))
	$(if $(UV_LIBS),@O=$(abspath $(O)) srcdir=$(srcdir) sh -c 'for t in server server_alone server_values server_admin server_misuse; do python3 -B $(srcdir)/tests/$$t.py || exit 1; done',@echo 'skip server: built without libuv')

.PHONY: server-whole
check-long: server-whole
server-whole: $(if $(UV_LIBS),$(server)) ## three servers take the whole of glove100, in DATA=dir, and the leader is killed meanwhile
	$(if $(UV_LIBS),@O=$(abspath $(O)) srcdir=$(srcdir) $(if $(DATA),VSHARD_DATA=$(abspath $(DATA))) python3 -B $(srcdir)/tests/server.py --whole,@echo 'skip server-whole: built without libuv')
