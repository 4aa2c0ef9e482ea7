#!/bin/sh
# plain_build.sh - `cc -c -Iinclude -Ilib lib/*/*.c`, with no flag at all, is a
# complete build: what a small device or a foreign build system needs. It leaves
# out hwloc, libsodium and LZ4. No file asks for the builder's own machine.
cd "${srcdir:-.}" || exit 1
here=$PWD
t=$(mktemp -d) && trap 'rm -rf "$t"' EXIT
bad=0

cd "$t" || exit 1
${CC:-cc} -c -I"$here/include" -I"$here/lib" "$here"/lib/*/*.c || { echo "the plain build fails"; exit 1; }
sed -n 's/^VSHARD_API .*[ *]\(vshard_[a-z0-9_]*\)(.*/\1/p' "$here"/include/vshard/*.h | sort > declared
nm --defined-only ./*.o | sed -n 's/.* T \(vshard_.*\)/\1/p' | sort > built
# Objects land in one folder, so no two files may have one name, in any room.
(cd "$here" && basename -a lib/*/*.c) | sort | uniq -d | grep . &&
    { echo "two rooms have a file of the name above"; bad=1; }
echo 'int main(void) { return 0; }' > main.c
${CC:-cc} -o whole main.c ./*.o -lxxhash -lm || { echo "the plain build does not link"; bad=1; }
diff declared built || { echo "the plain build lacks (<) or adds (>) functions"; bad=1; }

cd "$here" || exit 1
if grep -nE -e '-m(arch|tune|cpu)=|-ffast-math|-Ofast' Makefile configure.ac lib/config.mk.in; then
    echo "the flags above would build for one machine, or break the error bounds"; bad=1
fi
exit $bad
