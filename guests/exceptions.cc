/*
 * What the agent asks of a program in which an exception has come to the end of the stack: what it is, and then its end, as the program's
 * own handler has it. It is linked into C++ programs that have exceptions.
 */

#include <cstdio>
#include <cstdlib>
#include <cxxabi.h>
#include <exception>
#include <typeinfo>

extern "C" __attribute__((used)) const char *__cloudskin_uncaught(void *exception) {
    /* Each thread's own: another one may have come here too. */
    static thread_local char text[1024];
    abi::__cxa_begin_catch(exception);
    const std::type_info *type = abi::__cxa_current_exception_type();
    int status = 1;
    char *name = type != nullptr ? abi::__cxa_demangle(type->name(), nullptr, nullptr, &status) : nullptr;
    const char *shown = status == 0 ? name : type != nullptr ? type->name() : "one of another language";
    try {
        throw;
    } catch (const std::exception &e) {
        std::snprintf(text, sizeof text, "%s: %s", shown, e.what());
    } catch (...) {
        std::snprintf(text, sizeof text, "%s", shown);
    }
    std::free(name);
    return text;
}

/* The exception is the current one, as for a handler that was called where it was thrown. */
extern "C" __attribute__((used)) void __cloudskin_terminate(void) { std::terminate(); }
