/*
 * What C++ does with a thread_local variable when its thread ends, in programs of one thread: it goes at the program's end, in turn with static variables. Linked into
 * programs that have such a variable; with threads it is in threads.c.
 */

int __cxa_atexit(void (*)(void *), void *, void *);

int __cxa_thread_atexit(void (*f)(void *), void *object, void *library) {
    return __cxa_atexit(f, object, library);
}
