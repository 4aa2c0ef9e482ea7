# cluster_write.mk - ingest through the replicated log; included by the Makefile.
#
#   make bench-write                                         words of the demo, a minute
#   make bench-write DATA=dir ARGS='--set glove100'          some ten minutes
#   make bench-write PROBES=ingest ARGS='--rounds 9'

cluster_write_build := $(O)/bench/cluster_write/build

$(cluster_write_build): $(O)/bench/cluster_write/build.o $(O)/libsupport.a $(O)/libvshard.a
	$(call say,LINK)$(CC) $(LDFLAGS) -o $@ $^ $(ALL_LIB)

.PHONY: bench-write
bench-write: server $(cluster_write_build) ## ingest, lag and restart of servers: DATA=dir PROBES='ingest lag restart alone' ARGS=..
	@srcdir=$(srcdir) $(if $(DATA),VSHARD_DATA=$(abspath $(DATA))) python3 -B $(srcdir)/bench/cluster_write/measure.py \
	    --server $(server) --build $(cluster_write_build) $(ARGS) $(PROBES)

-include $(cluster_write_build).d
