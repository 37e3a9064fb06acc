# Support vector machines in C++: classes with virtual functions and templates, and long sums of products.
packages=(libsvm)
program=svm-train

build() { make "$jobs" CXX="$CXX" CFLAGS=-O2 svm-train; }

# Its own data, larger by copies that are shifted a little.
prepare() {
    for n in 0 1 2 3 4 5; do
        awk -v n=$n '{ for (i = 2; i <= NF; i++) { split($i, f, ":"); $i = f[1] ":" f[2] + n * f[1] / 700 } print }' "$sources/libsvm/heart_scale"
    done >data
}

# Kernels that need no function of the C library: of those, no two have the same last digits everywhere.
runs() {
    run -t 0 -c 10 data linear.model
    run -t 1 -d 3 -g 0.5 -r 1 data cubic.model
    run -s 3 -t 0 -p 0.3 data regression.model
    run -s 1 -t 0 -n 0.4 data nu.model
    # No kernel of that number: its error, and exit code 1.
    run -t 9 data none.model
}

# Each model with all its digits, and what it says of the way there.
compared() {
    cksum ./*.model
    head -n 40 ./*.model
    cat out.*
}
