# Convex hulls, Delaunay triangulations and Voronoi diagrams: a C library that leaves by `longjmp`, in C++ classes that throw and catch.
packages=(qhull)
program=build/user_eg3

build() {
    cd build
    cmake .. "${cmake[@]}" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF
    make "$jobs" user_eg3
}

runs() {
    run rbox '400 D3' qhull 's p' facets
    run rbox '30000 D4' qhull 'FA'
    run rbox '10 D2' '2 D2' qhull 's p' facets
    run rbox y c eg-delaunay
    run rbox 10 D2 eg-voronoi qhull 'd o'
    run eg-convex
    # Too few points: the library's error, thrown as an exception.
    run rbox '2 D3' qhull 'd'
    run rbox 'D0' qhull 'o'
}

# What it says of errors too. Left out: times, and a number that it draws of the clock for each run.
compared() {
    sed '/CPU seconds/d; s/run-id [0-9]*/run-id/' out.* err.*
}
