# cluster_write.mk - ingest through the replicated log; included by the Makefile.
#
#   make bench-write                                         words of the demo, a minute
#   make bench-write DATA=dir ARGS='--set glove100'          some ten minutes
#   make bench-write PROBES=ingest ARGS='--rounds 9'

cluster_write_build := $(O)/bench/cluster_write/build

$(cluster_write_build): $(O)/bench/cluster_write/build.o $(O)/libsupport.a $(O)/libvshard.a
	$(call say,LINK)$(CC) $(LDFLAGS) -o $@ $^ $(ALL_LIB)

.PHONY: bench-write
bench-write: server $(cluster_write_build) ## ingest, lag, restart and loss of servers: DATA=dir PROBES='ingest lag restart alone kill' ARGS=..
	@srcdir=$(srcdir) $(if $(DATA),VSHARD_DATA=$(abspath $(DATA))) python3 -B $(srcdir)/bench/cluster_write/measure.py \
	    --server $(server) --build $(cluster_write_build) $(ARGS) $(PROBES)

# That it still finds what it stands on.
check: cluster-write-test
.PHONY: cluster-write-test
cluster-write-test:
	@srcdir=$(srcdir) $(PYTHON) -B $(srcdir)/bench/cluster_write/measure.py --help > /dev/null
	@echo 'pass bench-write --help'

-include $(cluster_write_build).d
