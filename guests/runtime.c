/*
 * The part of CloudSkin that is linked into each cell: two pieces of memory whose addresses the agent must know. The
 * linker exports the address of each as an immutable global; nothing here runs.
 *
 * No poll is written in C: a call in a loop would keep LLVM from vectorising it. The polls are put into the linked module
 * (`cells::toolchain::instrument`).
 */

/* Word 0: stop at the next safe point, please. Word 1: die at once (the agent sets word 0 too). The rest is reserved. */
__attribute__((used, aligned(64))) volatile int __cloudskin_flags[16];

/* Where the call stack is kept while a cell is stopped; it starts with the two pointers {next free byte, end}. */
__attribute__((used, aligned(64))) unsigned char __cloudskin_unwind[8 * 1024 * 1024];

__attribute__((import_module("cloudskin"), import_name("poll"))) void __cloudskin_poll(void);

/* Only here so that the linked module has the import; the export is removed with the polls in place. */
void __cloudskin_keep(void) { __cloudskin_poll(); }
