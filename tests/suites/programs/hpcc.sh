# The HPC Challenge: Linpack, a transposition, random updates, Fourier transforms, streams and messages over four ranks. It measures, so what is compared is what its checks say: that
# the results are right, and where they are printed with all digits, which. Its linear algebra is that of GSL.
packages=(hpcc gsl)
program=hpcc
ranks=4
slow=yes

build() {
    # GSL's CBLAS alone: each file is a function, and configure would ask for all of GSL. A short config.h says what they look for.
    (
        cd "$sources/gsl/cblas"
        printf '#define HAVE_INLINE 1\n#define GSL_RANGE_CHECK 0\n#define RETURN_IF_NULL(x) if (!x) { return; }\n' >config.h
        mkdir -p gsl
        cp ../gsl_*.h ../*/gsl_*.h gsl/ 2>/dev/null || true
        printf '%s\n' $(sed -n '/^libgslcblas_la_SOURCES/s/.*= *//p' Makefile.am) | xargs -n 24 $CC -O3 -I. -c
        $AR rc libcblas.a ./*.o
        $RANLIB libcblas.a
    )
    # As hpl/setup/Make.Linux_PII_CBLAS says for such a library.
    cat >hpl/Make.cloudskin <<MAKE
SHELL = /bin/sh
CD = cd
CP = cp
LN_S = ln -s
MKDIR = mkdir -p
RM = rm -f
TOUCH = touch
ARCH = cloudskin
TOPdir = ../../..
INCdir = \$(TOPdir)/include
BINdir = \$(TOPdir)/bin/\$(ARCH)
LIBdir = \$(TOPdir)/lib/\$(ARCH)
HPLlib = \$(LIBdir)/libhpl.a
LAinc = -I$sources/gsl/cblas
LAlib = $sources/gsl/cblas/libcblas.a
F2CDEFS =
HPL_INCLUDES = -I\$(INCdir) -I\$(INCdir)/\$(ARCH) \$(LAinc)
HPL_LIBS = \$(HPLlib) \$(LAlib) -lm
HPL_OPTS = -DHPL_CALL_CBLAS -DHPL_NO_MPI_DATATYPE
HPL_DEFS = \$(F2CDEFS) \$(HPL_OPTS) \$(HPL_INCLUDES)
CC = $CC
CCNOOPT = \$(HPL_DEFS)
CCFLAGS = \$(HPL_DEFS) -O3
LINKER = $CC
LINKFLAGS = \$(CCFLAGS)
ARCHIVER = $AR
ARFLAGS = r
RANLIB = $RANLIB
MAKE
    make arch=cloudskin
}

prepare() { sed 's/^1000  *Ns/200 Ns/; s/^80  *NBs/32 NBs/' "$sources/hpcc/_hpccinf.txt" >hpccinf.txt; }

runs() { run; }

# Not its times: of the transpositions the sizes and the verdict.
compared() {
    grep -E 'PASSED|FAILED|Success=|Node\(s\) with error|Found [0-9]+ errors|CommWorldProcs|HPL_N=|HPL_NB=|HPL_nprow=|HPL_npcol=|PTRANS_n=|PTRANS_residual=' hpccoutf.txt |
        sed -E 's/^((WALL|CPU) +[0-9 ]+) [0-9.]+ +(PASSED|FAILED).*/\1 \3/'
}
