/* What the program and its library share. */
#ifndef TALLY_H
#define TALLY_H

#define LETTERS 26

struct tally {
    long long lines, words, letters[LETTERS]; /* words by their first letter */
};

/* Adds the lines of a file of which (line number) % ranks == rank. 0, or -1 with errno. */
int tally_file(const char *path, int rank, int ranks, struct tally *tally);

/* Prints a tally as a table; letters that begin no word are left out. */
void tally_print(const char *name, const struct tally *tally);

#endif
