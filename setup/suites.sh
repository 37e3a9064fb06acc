#!/usr/bin/env bash
# Fetches the outside test suites to .setup/suites, from Debian's source packages. Prints nothing when they are there.
#
#   setup/suites.sh          MPICH's suite (folder test/mpi of the source package mpich), LLVM's tests of its OpenMP
#                            runtime (folder openmp/runtime/test of llvm-toolchain-14), and the programs of programs.txt, whole
#
# CLOUDSKIN_MPICH=mpich.tar.gz names an archive of MPICH's sources that is here already, of version 4.0.2: its makers', or Debian's mpich_*.orig.tar.gz.
# CLOUDSKIN_LLVM=llvm.tar.xz is the same for LLVM 14, and CLOUDSKIN_PROGRAMS=folder one with Debian's PACKAGE_*.orig.tar.* of the programs.
#
# The suites must be there. Of the programs, those that can't be had are left out, and one line says which.
#
# A private apt configuration adds the `deb-src` entries that go with the machine's own `deb` entries; nothing of the
# system's is changed. Nothing of what is fetched is ever committed: it is other people's.

set -u
umask 022

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
suites=$root/.setup/suites

fail() {
    printf 'suites: %s\n' "$*" >&2
    exit 1
}

# A package and its megabytes on each line.
programs() { sed 's/#.*//; /^[[:space:]]*$/d' "$root/setup/programs.txt"; }
lacking() { programs | while read -r package _; do [ -d "$suites/programs/$package" ] || printf '%s ' "$package"; done; }

[ -f "$suites/mpich/util/mtest.c" ] && [ -f "$suites/openmp/omp_testsuite.h" ] && [ -z "$(lacking)" ] && exit 0
mkdir -p "$suites/apt/lists/partial" "$suites/apt/cache/archives/partial" || fail "can't write to $suites"
log=$suites/log
: >"$log"
lists_read=no

# Sources for each binary entry, in both of apt's formats. Asked once.
read_lists() {
    case $lists_read in yes) return 0 ;; failed) return 1 ;; esac
    lists_read=failed
    local list=$suites/apt/sources.list parts=$suites/apt/sources.d file
    : >"$list"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -f "$file" ] && sed -n 's/^deb[[:space:]]/deb-src /p' "$file" >>"$list"
    done
    mkdir -p "$parts"
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -f "$file" ] && sed 's/^Types:.*/Types: deb-src/' "$file" >"$parts/$(basename "$file")"
    done
    options=(
        -o "Dir::Etc::sourcelist=$list" -o "Dir::Etc::sourceparts=$parts" -o "Dir::State::lists=$suites/apt/lists"
        -o "Dir::Cache=$suites/apt/cache" -o "Dir::Cache::srcpkgcache=" -o "Dir::Cache::pkgcache=" -o "APT::Sandbox::User="
    )
    apt-get "${options[@]}" update -q >>"$log" 2>&1 || return 1
    lists_read=yes
}

# suite NAME PACKAGE MEGABYTES FOLDER FILE ARCHIVE REMEDY: the folder of the package's original sources that has FILE becomes .setup/suites/NAME.
suite() {
    local name=$1 package=$2 size=$3 folder=$4 file=$5 archive=$6 remedy=$7 member path slashes
    [ -f "$suites/$name/$file" ] && return
    [ -z "$archive" ] || [ -s "$archive" ] || fail "$archive is not a file; $remedy"
    if [ -z "$archive" ]; then
        command -v apt-get >/dev/null || fail "no apt-get to fetch the source package $package with; $remedy"
        printf 'suites: fetching the sources of %s (%s MB)\n' "$package" "$size" >&2
        read_lists || fail "can't read the lists of source packages, of which $package is one (see $log); $remedy"
        rm -rf "$suites/download"
        mkdir -p "$suites/download"
        (cd "$suites/download" && apt-get "${options[@]}" source -q --download-only "$package") >>"$log" 2>&1 ||
            fail "can't download the source package $package (see $log); $remedy"
        archive=$(find "$suites/download" -name "${package}_*.orig.tar.*" ! -name '*.asc' | head -n 1)
        [ -n "$archive" ] || fail "the source package $package has no original archive (see $log); $remedy"
    fi
    rm -rf "$suites/$name.new"
    mkdir -p "$suites/$name.new"
    member=$(tar -tf "$archive" 2>>"$log" | grep "$folder/$file\$" | head -n 1)
    [ -n "$member" ] || fail "$archive has no $folder/$file; $remedy"
    path=${member%/"$file"}
    slashes=${path//[^\/]/}
    tar -xf "$archive" -C "$suites/$name.new" --strip-components=$((${#slashes} + 1)) "$path" >>"$log" 2>&1 ||
        fail "can't unpack $archive (see $log)"
    [ -f "$suites/$name.new/$file" ] || fail "$archive has no $folder/$file"
    rm -rf "$suites/$name" "$suites/download"
    mv "$suites/$name.new" "$suites/$name"
}

suite mpich mpich 22 test/mpi util/mtest.c "${CLOUDSKIN_MPICH:-}" "name an archive of MPICH 4.0.2's sources by CLOUDSKIN_MPICH=mpich-4.0.2.tar.gz"
suite openmp llvm-toolchain-14 130 openmp/runtime/test omp_testsuite.h "${CLOUDSKIN_LLVM:-}" "name an archive of LLVM 14's sources by CLOUDSKIN_LLVM=llvm-project-14.0.6.src.tar.xz"

# program PACKAGE MEGABYTES: the package's original sources become .setup/suites/programs/PACKAGE.
program() {
    local package=$1 size=$2 archive=
    original() { find "$1" -name "${package}_*.orig.tar.*" ! -name '*.asc' 2>>"$log" | head -n 1; }
    [ -d "$suites/programs/$package" ] && return
    [ -z "${CLOUDSKIN_PROGRAMS:-}" ] || archive=$(original "$CLOUDSKIN_PROGRAMS")
    if [ -z "$archive" ]; then
        { command -v apt-get >/dev/null && read_lists; } || return
        printf 'suites: fetching the sources of %s (%s MB)\n' "$package" "$size" >&2
        rm -rf "$suites/download"
        mkdir -p "$suites/download"
        # Without what Debian adds: it is the makers' program that is built.
        (cd "$suites/download" && apt-get "${options[@]}" source -q --download-only --tar-only "$package") >>"$log" 2>&1 || return
        archive=$(original "$suites/download")
        [ -n "$archive" ] || return
    fi
    rm -rf "$suites/programs/.new"
    mkdir -p "$suites/programs/.new"
    tar -xf "$archive" -C "$suites/programs/.new" --strip-components=1 --no-same-owner >>"$log" 2>&1 || return
    mv "$suites/programs/.new" "$suites/programs/$package"
}

while read -r package size; do
    program "$package" "$size"
done < <(programs)
missing=$(lacking)
[ -z "$missing" ] || printf "suites: can't fetch the source packages %s(see %s), so the tests with their programs are left out; name a folder with their original archives by CLOUDSKIN_PROGRAMS=folder\n" "$missing" "$log" >&2
rm -rf "$suites/apt" "$suites/download"
