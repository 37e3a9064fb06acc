#!/usr/bin/env bash
# Cells that go from x86-64 to aarch64 and back in the middle of their work: the program `crossing` (tests/src/bin/crossing) for both kinds of machine, the second one run by qemu-user.
#
#   tests/aarch64.sh [OPTION]...     options of `crossing prove`: --only TEXT, --seed N, --work FOLDER
#
# Ten minutes and more for the first build, since the engine is compiled for aarch64, and as long for all programs. The table goes to standard output, a line of JSON for each of its
# rows to out/aarch64.jsonl. Not a part of `make test`: that runs the same tool with this machine on both sides (tests/tests/crossing.rs).
set -euo pipefail
cd "$(dirname "$0")/.."
setup/setup.sh aarch64
other=aarch64-unknown-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
cargo build --release --workspace --bin crossing
cargo build --release --workspace --bin crossing --target $other
mkdir -p out
# The compiler of the fast tier runs in the emulator, too. /usr/aarch64-linux-gnu: where the libraries of Debian's cross compiler are.
emulator="env CLOUDSKIN_ZIG=$PWD/.setup/aarch64/zig qemu-aarch64 -L /usr/aarch64-linux-gnu"
target/release/crossing prove --other "target/$other/release/crossing" --emulator "$emulator" --json out/aarch64.jsonl "$@"
