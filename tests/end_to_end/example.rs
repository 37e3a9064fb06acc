//! examples/vegetation gives the same bytes wherever it runs, however often it moves, and the index that GRASS computes.
