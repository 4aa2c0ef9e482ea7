# peers.mk - how this library is measured beside its peers; included by the Makefile.
#
#   make bench-peers DATA=dir                          SETS and PEERS as in peers.py
#   make bench-peers DATA=dir SETS=glove100 PEERS=vshard,hnswlib ARGS='--rows 20000 --quick'
#   make bench-peers SETS=synth768 ARGS=--help         a set that needs no files; all options

PYTHON   ?= python3
peers_venv = $(O)/bench/venv

bench_peers_run = $(peers_venv)/bin/python $(srcdir)/bench/peers/peers.py --build '$(O)' \
                  $(if $(DATA),--data '$(DATA)') $(if $(SETS),--sets '$(SETS)') \
                  $(if $(PEERS),--peers '$(PEERS)') $(ARGS)

# Each requirement by itself: one peer without a package for this machine is no reason
# to go without the others.
$(peers_venv)/ready: $(srcdir)/bench/peers/requirements.txt
	@mkdir -p $(@D)
	$(PYTHON) -m venv $(peers_venv)
	@sed -n 's/^\([a-z].*\)/\1/p' $< | while read -r package; do \
	  printf '  PIP   %s\n' "$$package"; \
	  $(peers_venv)/bin/python -m pip install -q --disable-pip-version-check --only-binary :all: \
	    "$$package" > $(@D)/pip.log 2>&1 < /dev/null || \
	  { $(peers_venv)/bin/python -m pip install -q --disable-pip-version-check "$$package" \
	      > $(@D)/pip.log 2>&1 < /dev/null; } || \
	  printf '  left out: %s: %s\n' "$$package" "$$(grep -m 1 ERROR $(@D)/pip.log)"; done
	@touch $@

# The tests' pool of threads, for the build: here its functions are to be found by name.
$(O)/bench/libpool.so: $(srcdir)/tests/support/pool.c $(srcdir)/tests/support/pool.h
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(ALL_CPP) -I$(srcdir)/tests $(ALL_C) -fvisibility=default -shared \
	    $(LDFLAGS) -o $@ $<

# The judges are judged too, where there is NumPy.
check: peers-test
.PHONY: peers-test
peers-test:
	@if $(PYTHON) -c 'import numpy' 2> /dev/null; then \
	  $(PYTHON) -B $(srcdir)/bench/peers/test_measure.py; \
	else echo 'skip peers: no NumPy'; fi
