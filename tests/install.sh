#!/bin/sh
# install.sh - what is installed can be built against, and uninstalled without a trace.
#
# Method: a staged install under a scratch DESTDIR; one program built three ways,
# by pkg-config with the shared library, by pkg-config with the archive, and by
# CMake; then uninstall, and no file may be left.
cd "${srcdir:-.}" || exit 1
srcdir=$PWD
MAKE=${MAKE:-make}
t=$(mktemp -d) && trap 'rm -rf "$t"' EXIT
bad=0
verdict() {
    if [ "$1" = 0 ]; then echo "pass install $2"; else echo "FAIL install $2"; cat "$t/log"; bad=1; fi
}

$MAKE --no-print-directory install DESTDIR="$t" prefix=/opt/vshard O="${O:-$PWD/build}" \
    > "$t/log" 2>&1
verdict $? "into a staging directory"

cat > "$t/use.c" << 'END'
#include <stdio.h>
#include <vshard.h>
int main(void)
{
    struct vshard_machine machine = { .size = sizeof machine };
    if (vshard_version() != VSHARD_VERSION_NUMBER || vshard_machine_report(&machine) != 0)
        return 1;
    return puts(machine.version) < 0;
}
END
export PKG_CONFIG_SYSROOT_DIR="$t" PKG_CONFIG_PATH="$t/opt/vshard/lib/pkgconfig"
export PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1

{ ${CC:-cc} -o "$t/shared" "$t/use.c" $(pkg-config --cflags --libs libvshard) &&
  LD_LIBRARY_PATH="$t/opt/vshard/lib" "$t/shared"; } > "$t/log" 2>&1
verdict $? "links by pkg-config, shared"
{ ${CC:-cc} -o "$t/static" "$t/use.c" $(pkg-config --cflags libvshard) \
      "$t/opt/vshard/lib/libvshard.a" \
      $(PKG_CONFIG_SYSROOT_DIR='' pkg-config --static --libs libvshard | sed 's/-lvshard//') &&
  "$t/static"; } > "$t/log" 2>&1
verdict $? "links by pkg-config, static"

if command -v cmake > /dev/null; then
    mkdir "$t/cmake"
    cat > "$t/cmake/CMakeLists.txt" << END
cmake_minimum_required(VERSION 3.13)
project(use C)
find_package(libvshard $(pkg-config --modversion libvshard | cut -d. -f1,2) REQUIRED)
add_executable(shared $t/use.c)
target_link_libraries(shared vshard::vshard)
add_executable(static $t/use.c)
target_link_libraries(static vshard::static)
END
    { cmake -S "$t/cmake" -B "$t/cmake/build" -DCMAKE_PREFIX_PATH="$t/opt/vshard" -DCMAKE_C_COMPILER="${CC:-cc}" &&
      cmake --build "$t/cmake/build" && LD_LIBRARY_PATH="$t/opt/vshard/lib" "$t/cmake/build/shared" &&
      "$t/cmake/build/static"; } > "$t/log" 2>&1
    verdict $? "links by CMake"
else
    echo "there is no cmake here, so its package file is untested"
fi

[ -e "$t/opt/vshard/share/man/man3/vshard_version.3" ]
verdict $? "has each function's manual under its own name"

$MAKE --no-print-directory uninstall DESTDIR="$t" prefix=/opt/vshard O="${O:-$PWD/build}" \
    > "$t/log" 2>&1
find "$t/opt/vshard" ! -type d >> "$t/log"
[ -z "$(find "$t/opt/vshard" ! -type d)" ]
verdict $? "leaves nothing behind after uninstall"
exit $bad
