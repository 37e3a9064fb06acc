# A compressor on threads: a pool of workers with mutexes and conditions. The bytes that it makes don't depend on their number.
packages=(libzstd)
program=programs/zstd
moves=no
slow=yes

# Without the libraries that it would look for on this machine, and without its assembler for x86-64. A header of its own uses FILE and includes <stdio.h> only
# where it knows the system.
build() {
    make "$jobs" -C programs zstd CC="$CC" AR="$AR" CFLAGS="-O2 -pthread -include stdio.h" HAVE_PTHREAD=1 HAVE_ZLIB=0 HAVE_LZMA=0 HAVE_LZ4=0 ZSTD_NO_ASM=1 BACKTRACE=0
}

prepare() {
    for _ in 1 2 3; do cat "$sources"/libzstd/lib/*/*.[ch] "$sources"/libzstd/programs/*.[ch] "$sources"/libzstd/tests/*.c; done >text
}

runs() {
    run -q -T4 -6 -B262144 text -o text.6.zst
    run -q -T3 -15 text -o text.15.zst
    run -q -d text.6.zst -o again
    run -q -t text.15.zst
    # What is none: its error, and exit code 1.
    run -q -d text -o nothing
}

# Each file, byte by byte, and what it says of the one that is not compressed.
compared() {
    cksum text text.6.zst text.15.zst again
    cat out.*
    cat err.*
}
