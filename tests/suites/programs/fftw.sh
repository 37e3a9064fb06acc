# Fourier transforms on ranks: FFTW 2's tests of its transforms with MPI, in one to three dimensions, complex and real.
packages=(fftw)
program=mpi/fftw_mpi_test
slow=yes
ranks=4

# MPILIBS keeps its configure from looking for MPI_Init without mpi.h, by which a cell's linker knows MPI.
build() {
    CC="$CC" MPICC="$CC" MPILIBS=-lm AR="$AR" RANLIB="$RANLIB" CFLAGS=-O2 ./configure --enable-mpi --disable-fortran --disable-shared
    make "$jobs"
}

runs() {
    run -vv -c 360 -c 1024 -c 5040
    run -vv -c 64x72 -c 500x300
    run -vv -c 24x30x28 -c 64x64x64
}

# That its own checks of each kind and size pass. Their order, and which have a buffer for their work, it draws by the C library's random numbers.
compared() {
    sed 's,w/work\.\.\.,,g' out.* | sort
}
