/*
 * Continues the C library's header: `sigsetjmp` keeps the signal mask where it is asked to, and `siglongjmp` gives it back, so that a handler may be left by it. What they do
 * is in signals.c. Macros, since where a `setjmp` is its function can be returned to.
 */
#ifndef CLOUDSKIN_SETJMP_H
#define CLOUDSKIN_SETJMP_H
#pragma GCC system_header

#include_next <setjmp.h>

#ifdef __cplusplus
extern "C" {
#endif
void __cloudskin_keep_mask(struct __jmp_buf_tag *, int);
void __cloudskin_give_mask(struct __jmp_buf_tag *);
#ifdef __cplusplus
}
#endif

#define sigsetjmp(where, mask) (__cloudskin_keep_mask(where, mask), setjmp(where))
#define siglongjmp(where, value) (__cloudskin_give_mask(where), longjmp(where, value))

#endif
