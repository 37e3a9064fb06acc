# A compressor, with the tests of its Makefile: from standard input to standard output.
packages=(bzip2)
program=bzip2

build() { make CC="$CC" AR="$AR" RANLIB="$RANLIB" bzip2 test; }

prepare() {
    for _ in 1 2 3 4; do cat "$sources"/bzip2/*.[ch] "$sources"/bzip2/manual.ps "$sources"/bzip2/manual.html; done >text
    cp "$sources"/bzip2/sample[123].bz2 .
}

runs() {
    run -k -9 text
    run -k -d sample1.bz2 sample2.bz2
    run -t -v sample1.bz2 sample2.bz2 sample3.bz2 text.bz2
    # What is none: its error, and exit code 2.
    run -t text
}

# Each file, byte by byte, and what it says, but for the name that it was started by.
compared() {
    cksum text text.bz2 sample1 sample2
    cat out.*
    sed 's/^[^ :]*: text:/text:/' err.*
}
