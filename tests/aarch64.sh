#!/usr/bin/env bash
# Jobs that change the kind of machine in the middle of their work: begun on x86-64, frozen, thawed under an emulated aarch64, frozen there and brought back, and the other way round. They print the
# same as if they had stayed, bit for bit, interpreted on both, and with code that was compiled for aarch64 on x86-64.
#
#   tests/aarch64.sh                 setup/aarch64.sh installs what it needs; the first build takes some ten minutes
#
# Says of each leg what it was and how long it took; exit code 0 when all output is the same. Not among `make test`'s: it builds the engine once more.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
setup/aarch64.sh
zig=${CLOUDSKIN_ZIG:-$PWD/.setup/toolchain/ziglang/zig}
cc=$PWD/tests/suites/aarch64/zig-cc
cloudskin=target/release/cloudskin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { printf 'aarch64: %s\n' "$*"; }
fail() {
    say "$*"
    exit 1
}

[ -x "$cloudskin" ] || fail "$cloudskin is not there; build it with \`cargo build --release --workspace\`"
say "building for this machine"
cargo build -q --release --workspace --features cells/carry --example carry
say "building for $target"
# In a folder of its own, and our own crates without optimisation: what runs is wasmtime and what it makes.
CLOUDSKIN_ZIG=$zig CC_aarch64_unknown_linux_gnu=$cc AR_aarch64_unknown_linux_gnu=$PWD/tests/suites/aarch64/zig-ar CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$cc \
    cargo build -q --release -p cells --features cells/carry --example carry --target $target --target-dir target/aarch64 \
    --config profile.release.opt-level=0 --config 'profile.release.package."*".opt-level=1' --config profile.release.package.pulley-interpreter.opt-level=3
here=target/release/examples/carry
there="qemu-aarch64 -L /usr/aarch64-linux-gnu target/aarch64/$target/release/examples/carry"

# leg MACHINE FROM TO OUT: one part of a job's life; `-` for its start, or its end.
leg() {
    local machine=$1 from=$2 to=$3 out=$4 args=(--tier "$tier" --ranks "$ranks" --out "$out") code=0 run=$here
    [ "$machine" = x86_64 ] || run=$there
    [ "$machine" = x86_64 ] || [ "$tier" = interpreter ] || args+=(--cache "$work/cache")
    [ "$from" = - ] || args+=(--from "$from")
    # Emulated, everything takes longer.
    [ "$to" = - ] || args+=(--to "$to" --after "$([ "$machine" = x86_64 ] && echo "$pause" || echo "$((pause * slower))")")
    $run "$module" "${args[@]}" -- "${words[@]}" 2>"$work/said" || code=$?
    say "    $(cat "$work/said")"
    [ "$code" = "$([ "$to" = - ] && echo 0 || echo 100)" ] || fail "$name: the leg on $machine ended with $code"
}

# Whether all ranks have printed the same; what threads print at the same time may come in another order.
same() {
    local file
    [ "$(ls "$work/stayed")" = "$(ls "$work/moved")" ] || return 1
    for file in "$work/stayed"/*; do
        if [ "$name" = threads ]; then
            diff <(sort "$file") <(sort "$work/moved/${file##*/}") || return 1
        else
            cmp "$file" "$work/moved/${file##*/}" || return 1
        fi
    done
}

# carried NAME MODULE RANKS PAUSE SLOWER ARGS: all the ways of a program.
carried() {
    name=$1 module=$2 ranks=$3 pause=$4 slower=$5 words=("${@:6}")
    tier=quick
    rm -rf "$work/stayed"
    leg x86_64 - - "$work/stayed"
    for tier in $tiers; do
        # What an agent there would compile is made here, and nothing there has to be.
        rm -rf "$work/cache" && mkdir -m 700 "$work/cache"
        [ "$tier" = interpreter ] || "$cloudskin" compile "$module" --target aarch64 --into "$work/cache" >/dev/null
        for way in "x86_64 aarch64" "aarch64 x86_64" "x86_64 aarch64 x86_64"; do
            say "  $name, $ranks ranks, $tier: $way"
            rm -rf "$work/moved"
            from=- legs=($way)
            for i in "${!legs[@]}"; do
                to=$work/frozen-$i
                [ $((i + 1)) -lt ${#legs[@]} ] || to=-
                leg "${legs[$i]}" "$from" "$to" "$work/moved"
                from=$to
            done
            same || fail "$name, $tier: its output is another one when it goes $way"
        done
        made=$(find "$work/cache" -name '*.cwasm' | wc -l)
        [ "$tier" = interpreter ] || [ "$made" = 1 ] || fail "$name: code was compiled on aarch64 and not taken from the cache"
    done
}

programs=crates/execution/cells/tests/programs
compiled() { "$cloudskin" cc -O2 "$@"; }
compiled "$programs/loop.c" -o "$work/loop.wasm"
compiled "$programs/exchange.c" -o "$work/exchange.wasm"
"$cloudskin" c++ -O2 tests/programs/exceptions.cc -o "$work/exceptions.wasm"
compiled -pthread "$programs/threads/threads.c" -o "$work/threads.wasm"
begin=$SECONDS
tiers="interpreter quick"
carried loop "$work/loop.wasm" 2 20 10 100 26
say "all output is the same, after $((SECONDS - begin)) s"
