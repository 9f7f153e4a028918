/* Preloaded into Python: counts the CPU time that each thread spends outside of the interpreter's lock.
 *
 * Libraries release the lock by PyEval_SaveThread() and take it again by PyEval_RestoreThread(). Calls inside libpython
 * itself, as for reading and writing files, may not pass here; their time counts as time with the lock. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static __thread double released_s, released_at_s;
static __thread long releases;

static double cpu_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

void *PyEval_SaveThread(void) {
    static void *(*real)(void);
    if (!real) real = (void *(*)(void))dlsym(RTLD_NEXT, "PyEval_SaveThread");
    releases++;
    void *state = real();
    released_at_s = cpu_s();
    return state;
}

void PyEval_RestoreThread(void *state) {
    static void (*real)(void *);
    if (!real) real = (void (*)(void *))dlsym(RTLD_NEXT, "PyEval_RestoreThread");
    released_s += cpu_s() - released_at_s;
    real(state);
}

double lock_released_s(void) { return released_s; } /* of the calling thread */
long lock_releases(void) { return releases; }
