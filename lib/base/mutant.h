/* mutant.h - known bugs, on demand.
 *
 * Each number is a mistake that shipped in some implementation of Raft, or of the
 * log beneath one. Built with -DVS_MUTANT=n the library makes mistake n, and `make
 * check-mutants` shows that the tests notice. Built without, TRAP(n) is a constant 0
 * and leaves no trace in the object code. The list of what each number means is
 * tests/sim/mutants.tsv. */
#ifndef VS_MUTANT_H
#define VS_MUTANT_H

#ifndef VS_MUTANT
#define VS_MUTANT 0
#endif
#define TRAP(n) (VS_MUTANT == (n))

/* Built with -DVS_CONFIG_APPLIED=1, a configuration counts from when it is applied,
 * joint ones are left when the test says so, and a leader that was voted out leads
 * on: etcd's design, in which tests/etcd follows etcd's scripts. Nothing else is
 * built so. */
#ifndef VS_CONFIG_APPLIED
#define VS_CONFIG_APPLIED 0
#endif

#endif
