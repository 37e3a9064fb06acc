#!/usr/bin/env bash
# Fetches the outside test suites to .setup/suites, from Debian's source packages. Prints nothing when they are there.
#
#   setup/suites.sh          MPICH's suite (folder test/mpi of the source package mpich)
#
# A private apt configuration adds the `deb-src` entries that go with the machine's own `deb` entries; nothing of the
# system's is changed. Nothing of what is fetched is ever committed: it is other people's.

set -u
umask 022

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
suites=$root/.setup/suites
version=4.0.2

fail() {
    printf 'suites: %s\n' "$*" >&2
    exit 1
}

[ -f "$suites/mpich/util/mtest.c" ] && exit 0
command -v apt-get >/dev/null || fail "no apt-get: unpack test/mpi of MPICH $version into $suites/mpich by hand"
mkdir -p "$suites/apt/lists/partial" "$suites/apt/cache/archives/partial" || fail "can't write to $suites"
log=$suites/log
: >"$log"

# Sources for each binary entry, in both of apt's formats.
list=$suites/apt/sources.list
: >"$list"
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -f "$file" ] && sed -n 's/^deb[[:space:]]/deb-src /p' "$file" >>"$list"
done
parts=$suites/apt/sources.d
mkdir -p "$parts"
for file in /etc/apt/sources.list.d/*.sources; do
    [ -f "$file" ] && sed 's/^Types:.*/Types: deb-src/' "$file" >"$parts/$(basename "$file")"
done

options=(
    -o "Dir::Etc::sourcelist=$list" -o "Dir::Etc::sourceparts=$parts" -o "Dir::State::lists=$suites/apt/lists"
    -o "Dir::Cache=$suites/apt/cache" -o "Dir::Cache::srcpkgcache=" -o "Dir::Cache::pkgcache=" -o "APT::Sandbox::User="
)
printf 'suites: fetching the sources of mpich (22 MB)\n' >&2
apt-get "${options[@]}" update -q >>"$log" 2>&1 || fail "can't read the lists of source packages (see $log)"
mkdir -p "$suites/download"
(cd "$suites/download" && apt-get "${options[@]}" source -q --download-only mpich) >>"$log" 2>&1 ||
    fail "can't download the source package mpich (see $log)"
archive=$(find "$suites/download" -name 'mpich_*.orig.tar.*' ! -name '*.asc' | head -n 1)
[ -n "$archive" ] || fail "the source package mpich has no original archive (see $log)"
rm -rf "$suites/mpich.new"
mkdir -p "$suites/mpich.new"
member=$(tar -tf "$archive" 2>>"$log" | grep 'test/mpi/util/mtest\.c$')
[ -n "$member" ] || fail "$archive has no test/mpi/util/mtest.c"
folder=${member%/util/mtest.c}
slashes=${folder//[^\/]/}
tar -xf "$archive" -C "$suites/mpich.new" --strip-components=$((${#slashes} + 1)) "$folder" >>"$log" 2>&1 ||
    fail "can't unpack $archive (see $log)"
[ -f "$suites/mpich.new/util/mtest.c" ] || fail "$archive has no test/mpi/util/mtest.c"
rm -rf "$suites/mpich" "$suites/download" "$suites/apt"
mv "$suites/mpich.new" "$suites/mpich"
