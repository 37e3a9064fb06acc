#!/usr/bin/env bash
# Builds and runs one outside program by its recipe, for this machine or as cells, and prints of its output what is compared.
#
#   recipe.sh NAME native|cell FOLDER build       unpacks the sources into FOLDER, builds them by their own build system, lays the input out
#   recipe.sh NAME native|cell FOLDER run         runs it on the spot, in FOLDER/work
#   recipe.sh NAME native|cell FOLDER compared    prints what is compared of FOLDER/work
#   recipe.sh NAME native|cell FOLDER describe    the program's file, its ranks, whether it can move; then each run's arguments, a line each and an empty one at its end
#   recipe.sh NAME native|cell FOLDER packages    whose sources it needs
#
# CLOUDSKIN=.../cloudskin names the program. Sources are in .setup/suites/programs, fetched by setup/suites.sh. A recipe is a file beside this one:
#
#   packages=(tachyon)         the first one's folder is where it builds; others lie beside it in $sources
#   program=path               what is built, below that folder
#   ranks=4                    more than one: a program with MPI
#   moves=no                   a cell of it can't be moved, because it has threads
#   slow=yes                   building it takes minutes: not in a run of the tests, but in `suites --suite programs`
#   build()                    with $CC, $CXX, $AR, $RANLIB, $jobs and "${cmake[@]}" as a user sets them
#   prepare()                  lays the input out, in the folder where the program is run; the sources are $sources
#   runs()                     run ARGUMENT...    once for each run
#   compared()                 in that folder, with out.1, err.1, out.2, ... of the runs

set -euo pipefail

fail() {
    printf 'recipe: %s\n' "$*" >&2
    exit 1
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
[ $# = 4 ] || fail "give a recipe, native or cell, a folder and what to do"
name=$1 kind=$2 folder=$3 what=$4
[ -f "$here/$name.sh" ] && [ "$name" != recipe ] || fail "$name is none of the recipes in $here"

packages=() program= ranks=1 moves=yes slow=no
build() { :; }
prepare() { :; }
runs() { :; }
compared() { cat out.*; }
# shellcheck source=/dev/null
. "$here/$name.sh"

case $kind in
    native)
        CC=gcc CXX=g++ AR=ar RANLIB=ranlib cmake=()
        [ "$ranks" = 1 ] || CC=mpicc CXX=mpicxx
        ;;
    cell)
        : "${CLOUDSKIN:?names the program cloudskin}"
        CC="$CLOUDSKIN cc" CXX="$CLOUDSKIN c++" AR="$CLOUDSKIN ar" RANLIB="$CLOUDSKIN ranlib"
        cmake=("-DCMAKE_TOOLCHAIN_FILE=$root/guests/cloudskin.cmake" "-DCLOUDSKIN=$CLOUDSKIN")
        ;;
    *) fail "$kind: native or cell" ;;
esac
jobs=-j$(nproc)
sources=$folder/sources
first=${packages[0]}
executable=$sources/$first/$program
export LC_ALL=C
# What a `make` around this one says is not meant for the program's.
unset MAKEFLAGS MAKELEVEL MFLAGS

case $what in
    packages) printf '%s\n' "${packages[@]}" ;;
    build)
        rm -rf "$folder"
        mkdir -p "$sources" "$folder/work"
        for package in "${packages[@]}"; do
            [ -d "$root/.setup/suites/programs/$package" ] || fail "the sources of $package are not there; fetch them with setup/suites.sh"
            # With their times, by which a Makefile tells what was made of what.
            cp -a "$root/.setup/suites/programs/$package" "$sources/$package"
        done
        (cd "$sources/$first" && build) >"$folder/build.log" 2>&1 || {
            grep -E 'rror|undefined|warning: the program' "$folder/build.log" | head -n 12 >&2
            fail "$name can't be built ($kind), see $folder/build.log"
        }
        [ -x "$executable" ] || fail "$name was built and has no $program"
        (cd "$folder/work" && prepare)
        ;;
    run)
        cd "$folder/work"
        n=0
        run() {
            n=$((n + 1))
            local code=0 start=("$executable")
            if [ "$ranks" != 1 ]; then
                case $kind in
                    native) start=(mpirun --allow-run-as-root --oversubscribe --mca mpi_yield_when_idle 1 -np "$ranks" "$executable") ;;
                    cell) start=(env "CLOUDSKIN_NP=$ranks" "$executable") ;;
                esac
            fi
            "${start[@]}" "$@" >"out.$n" 2>"err.$n" </dev/null || code=$?
            echo "exit code $code" >>"out.$n"
        }
        runs
        ;;
    compared) cd "$folder/work" && compared ;;
    describe)
        printf '%s\n%s\n%s\n%s\n' "$executable" "$ranks" "$moves" "$slow"
        run() { printf '%s\n' "$@" ''; }
        runs
        ;;
    *) fail "$what: build, run, compared, describe or packages" ;;
esac
