# cluster.mk - the demo: a cluster in one process; included by the Makefile.
#
#   make demo                              30,000 words that are in the tree
#   make demo DATA=dir SET=glove100        other vectors, as .npy files
#   make demo ARGS='--nodes 7'             see ARGS=--help

cluster_src  := $(call find,examples/cluster/*.c)
cluster_also := examples/demo/screen.c examples/demo/set.c
cluster_demo := $(O)/examples/cluster/cluster
cluster_run   = $(cluster_demo) --data '$(or $(DATA),$(srcdir)/examples/demo/data)' \
                --set '$(or $(SET),glove30k)' $(ARGS)

$(cluster_demo): $(cluster_src:%.c=$(O)/%.o) $(cluster_also:%.c=$(O)/%.o) $(O)/libsupport.a $(O)/libvshard.a
	$(call say,LINK)$(CC) $(LDFLAGS) -o $@ $^ $(ALL_LIB)

check: cluster-test
.PHONY: cluster-test
cluster-test: $(cluster_demo)
	@srcdir=$(srcdir) O=$(abspath $(O)) sh $(srcdir)/tests/cluster.sh

-include $(cluster_src:%.c=$(O)/%.d)
