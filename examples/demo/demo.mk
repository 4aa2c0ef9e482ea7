# demo.mk - how the demo is built, run and tested; included by the Makefile.
#
#   make demo                              30,000 words that are in the tree
#   make demo DATA=dir SET=glove100        other vectors, as .npy files
#   make demo ARGS='--shards 8 --ef 200'   see ARGS=--help

demo_src := $(call find,examples/demo/*.c)
demo_run  = $(O)/examples/demo/demo --data '$(or $(DATA),$(srcdir)/examples/demo/data)' \
            --set '$(or $(SET),glove30k)' $(ARGS)

$(O)/examples/demo/demo: $(demo_src:%.c=$(O)/%.o) $(O)/libsupport.a $(O)/libvshard.a
	$(call say,LINK)$(CC) $(LDFLAGS) -o $@ $^ $(ALL_LIB)

check: demo-test
.PHONY: demo-test
demo-test: $(O)/examples/demo/demo
	@srcdir=$(srcdir) O=$(abspath $(O)) sh $(srcdir)/tests/demo.sh

-include $(demo_src:%.c=$(O)/%.d)
