# A ray tracer on ranks: persistent requests, one for each row of the picture, and `MPI_Testsome` while others compute.
packages=(tachyon)
program=compile/own/tachyon
ranks=4

# Its Makefile has a target for each machine of its time; this is one more, as its README says. -DBsd is what has <sys/time.h> there.
build() {
    make -C unix all ARCH=own CC="$CC" CFLAGS="-O2 -DBsd -DMPI -DUSE_MPI_IN_PLACE" AR="$AR" ARFLAGS=r STRIP=true RANLIB="$RANLIB" LIBS="-L. -ltachyon -lm"
}

prepare() { cp "$sources"/tachyon/scenes/{balls,teapot,dnadof}.dat .; }

runs() {
    run balls.dat -res 800 800 -aasamples 2 -o balls.tga
    run teapot.dat -res 640 640 -fullshade -format PPM -o teapot.ppm
    run dnadof.dat -res 200 200 -format BMP -o dna.bmp
}

# Each picture, bit by bit. What it prints beside is how long things took and which machines there are.
compared() {
    cksum balls.tga teapot.ppm dna.bmp
    grep -h '^exit code' out.*
}
