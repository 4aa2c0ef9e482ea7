#!/bin/sh
# deps.sh - installs those of the named Debian packages that are missing.
#
# Where there is no apt, or no way to become root, it says what is needed instead.
command -v dpkg-query > /dev/null && command -v apt-get > /dev/null || {
    echo "This is not Debian or Ubuntu; please install what these packages are there:"
    echo "  $*"
    exit 0
}
missing=
for package; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

root=
if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null || { echo "As root: apt-get install$missing"; exit 1; }
    root=sudo
fi
echo "installing:$missing"
# The lists may be old, or absent as in a fresh container.
$root apt-get update -q &&
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $missing
