# cluster_sim.mk - the simulated cluster with search: 500 schedules in check, 10,000 in
# check-long; CLUSTER_SEEDS and FROM choose others.

.PHONY: check-cluster-sim check-cluster-sim-long check-cluster-stories bless-cluster

cluster_sim_src := $(call find,tests/cluster_sim/*.c)

check: check-cluster-sim check-cluster-stories
check-long: check-cluster-sim-long

$(O)/cluster-sim: $(cluster_sim_src:%.c=$(O)/%.o) $(O)/libsupport.a $(O)/libvshard.a
	$(call say,LINK)$(CC) $(LDFLAGS) -o $@ $^ $(ALL_LIB)

check-cluster-sim: $(O)/cluster-sim ## simulate a whole cluster with search under faults, for CLUSTER_SEEDS seeds, 500 if not said
	@$(O)/cluster-sim --from $(FROM) --to $$(($(FROM) + $(or $(CLUSTER_SEEDS),500) - 1))

check-cluster-sim-long: $(O)/cluster-sim
	@$(O)/cluster-sim --from $(FROM) --to $$(($(FROM) + $(or $(CLUSTER_SEEDS),10000) - 1))

check-cluster-stories: $(O)/cluster-sim ## the scripts of tests/cluster_sim and their expected traces
	@for f in $(srcdir)/tests/cluster_sim/*.sim; do $(O)/cluster-sim --story $$f || exit 1; done

bless-cluster: $(O)/cluster-sim ## rewrite the expected traces of the cluster's scripts; the diff is the review
	@for f in $(srcdir)/tests/cluster_sim/*.sim; do $(O)/cluster-sim --story $$f --bless || exit 1; done

.PHONY: check-cluster-mutants
check-long: check-cluster-mutants
check-cluster-mutants: $(O)/cluster-sim ## the simulated cluster notices known mistakes; MUTANTS='60 61' picks
	@srcdir=$(srcdir) O=$(abspath $(O)) CC='$(CC)' CPP_ALL='$(ALL_CPP)' LIBS='$(ALL_LIB)' \
	  sh $(srcdir)/tests/cluster_sim/mutants.sh

-include $(cluster_sim_src:%.c=$(O)/%.d)
