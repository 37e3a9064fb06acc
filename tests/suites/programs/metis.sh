# Partitions of graphs and meshes. Its random numbers are its own with GKRAND, the C library's without, and each C library has others.
packages=(metis)
program=build/own/programs/gpmetis

build() {
    mkdir -p build/own
    cd build/own
    cmake ../.. "${cmake[@]}" -DGKLIB_PATH="$sources/metis/GKlib" -DGKRAND=ON
    make "$jobs" gpmetis
}

prepare() { cp "$sources"/metis/graphs/{4elt,mdual,copter2}.graph "$sources/metis/graphs/test.mgraph" .; }

runs() {
    run -seed=7 4elt.graph 40
    run -seed=7 -ptype=rb -ncuts=8 copter2.graph 32
    run -seed=3 -contig -minconn -ncuts=4 mdual.graph 64
    run -seed=5 test.mgraph 8
}

# Each partition as a whole, and what it says of it. Left out: when it was built, the width of a pointer, times, and memory, which holds pointers.
compared() {
    cksum ./*.part.*
    grep -hv 'Built on\|size of idx_t\| sec\|Max memory' out.*
}
