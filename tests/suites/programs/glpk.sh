# Linear and integer programs by the simplex method and by branch and bound, from models in a language of its own, whose errors leave by `longjmp`.
packages=(glpk)
program=examples/glpsol
slow=yes

build() {
    CC="$CC" AR="$AR" RANLIB="$RANLIB" CFLAGS=-O2 ./configure --disable-shared
    make "$jobs"
}

prepare() { cp "$sources"/glpk/examples/{diet,sudoku,food,color}.mod "$sources"/glpk/examples/{sudoku.dat,murtagh.mps,plan.lp} .; }

runs() {
    run --math diet.mod -o diet.txt
    run --freemps murtagh.mps -o murtagh.txt
    run --mps murtagh.mps -o murtagh.txt
    run --lp plan.lp --interior -o plan.txt
    run --math sudoku.mod --data sudoku.dat -o sudoku.txt
    run --math food.mod -o food.txt
    run --math color.mod -o color.txt
    # A line that is no model: its error, and exit code 1.
    run --math plan.lp
}

# Each solution with all its digits, and each step of the way. Left out: time and memory.
compared() {
    cat ./*.txt
    grep -hv 'Time used\|Memory used' out.*
}
