#!/usr/bin/env bash
# Installs what `tests/aarch64.sh` needs to build for aarch64 and to run that here, on Debian and Ubuntu. Nothing else needs it, so no other set-up calls this.
#
#   the toolchain of setup.sh            zig as C compiler and linker for that machine
#   rustup target add aarch64-…          Rust's library for it
#   qemu-user, libc6-arm64-cross         the emulator, and the C library that its programs find
#
# Prints nothing when everything is there.

set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=aarch64-unknown-linux-gnu
log=$root/.setup/log-aarch64

fail() {
    printf 'aarch64: %s\n' "$*" >&2
    exit 1
}

"$root/setup/setup.sh" || exit 1
: >"$log" || fail "can't write to $log"
if ! [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
    rustup target add "$target" >>"$log" 2>&1 || fail "no Rust library for $target (see $log): add it as your Rust was installed, with rustup by \`rustup target add $target\`"
fi
missing=()
command -v qemu-aarch64 >/dev/null || missing+=(qemu-user)
[ -e /usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1 ] || missing+=(libc6-arm64-cross)
[ ${#missing[@]} -eq 0 ] && exit 0
as_root() { if [ "$(id -u)" = 0 ]; then env DEBIAN_FRONTEND=noninteractive "$@"; else sudo env DEBIAN_FRONTEND=noninteractive "$@"; fi; }
as_root apt-get install -q -y --no-install-recommends "${missing[@]}" >>"$log" 2>&1 ||
    { as_root apt-get update -q >>"$log" 2>&1 && as_root apt-get install -q -y --no-install-recommends "${missing[@]}" >>"$log" 2>&1; } ||
    fail "can't install ${missing[*]} (see $log)"
