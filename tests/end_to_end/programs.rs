//! Small MPI programs agree with Open MPI, also when they move between processes.
