/* The part of a cell's native code that is the same for all programs: the way in, the way out of a trap, and calls out. `struct context` begins like
   `Context` of `cells/src/native/bridge.rs`. Built without headers, for the machine itself. */

struct context {
    void *memory, *globals;
    unsigned long long memory_bytes;
    __SIZE_TYPE__ stack_end;
    int (*out)(struct context *, unsigned, void *);
    void *jump;
    unsigned trap;
};

int _setjmp(void *) __attribute__((returns_twice));
void longjmp(void *, int) __attribute__((noreturn));

/* 0: the function has returned; else why it has not. The buffer is larger than any system's. */
int cloudskin_enter(struct context *c, void (*function)(struct context *, void *), void *slots) {
    _Alignas(16) char buffer[1024];
    void *before = c->jump;
    int why = 0;
    c->jump = buffer;
    if (_setjmp(buffer) == 0)
        function(c, slots);
    else
        why = (int)c->trap;
    c->jump = before;
    return why;
}

__attribute__((noreturn)) void cloudskin_trap(struct context *c, unsigned why) {
    c->trap = why;
    longjmp(c->jump, 1);
}

int cloudskin_out(struct context *c, unsigned function, void *slots) {
    return c->out(c, function, slots);
}
