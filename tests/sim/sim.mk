# sim.mk - the simulated cluster: programs, tests and their tiers.
#
# check runs 2,000 seeds, the stories, and compares digests between compilers;
# check-long runs 20,000, check-soak a million; SEEDS, FROM choose others.

.PHONY: check-sim check-sim-long check-sim-soak check-stories check-digests check-mutants bless

sim_src := $(call find,tests/sim/*.c)
sim_obj := $(sim_src:%.c=$(O)/%.o)
FROM    ?= 1

check: check-sim check-stories
check-long: check-sim-long check-digests check-mutants
check-soak: check-sim-soak

$(O)/sim: $(sim_obj) $(O)/libsupport.a $(O)/libvshard.a
	$(call say,LINK)$(CC) $(LDFLAGS) -o $@ $^ $(ALL_LIB)

check-sim: $(O)/sim ## simulate a cluster under faults for SEEDS seeds, 2000 if not said
	@$(O)/sim --self
	@$(O)/sim --from $(FROM) --to $$(($(FROM) + $(or $(SEEDS),2000) - 1))

check-sim-long: $(O)/sim
	@$(O)/sim --from $(FROM) --to $$(($(FROM) + $(or $(SEEDS),20000) - 1))

# In pieces, so that each says how far it came.
check-sim-soak: $(O)/sim ## simulate 10^6 seeds; hours on one core
	@for i in $$(seq 0 99); do $(O)/sim --from $$(($(FROM) + i * 10000)) --to $$(($(FROM) + i * 10000 + 9999)) || exit 1; done

check-stories: $(O)/sim ## the scripts of tests/sim and their expected traces
	@for f in $(srcdir)/tests/sim/*.sim; do $(O)/sim --story $$f || exit 1; done

bless: $(O)/sim ## rewrite the expected traces; the diff is the review
	@for f in $(srcdir)/tests/sim/*.sim; do $(O)/sim --story $$f --bless || exit 1; done

check-digests: ## histories are equal under gcc and clang, -O0 and -O3
	@srcdir=$(srcdir) O=$(abspath $(O)) CPP_ALL='$(ALL_CPP)' LIBS='$(ALL_LIB)' sh $(srcdir)/tests/sim/digests.sh

check-mutants: $(O)/sim $(foreach t,traps sleep epoch flow,$(O)/plain/raft_$(t)) ## known mistakes are noticed; MUTANTS='1 2' picks
	@srcdir=$(srcdir) O=$(abspath $(O)) CC='$(CC)' CPP_ALL='$(ALL_CPP)' LIBS='$(ALL_LIB)' \
	  sh $(srcdir)/tests/sim/mutants.sh

-include $(sim_obj:.o=.d)
