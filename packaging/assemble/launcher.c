/* The program of the packages: Python itself, started like `python -IS`, with the modules of its own tree.
 * Built with PLAIN, it is a plain Python, which only packaging/build uses, to compile modules.
 *
 * Debian's static libpython wants a few functions that C libraries before 2.36 lack; they are here, so that
 * one binary runs on glibc 2.28 and later. */
#define _GNU_SOURCE
#include <Python.h>
#include <dlfcn.h>
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define HIDDEN __attribute__((visibility("hidden")))
#define NANOSECONDS 1000000000L
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

#ifdef FROZEN
/* The modules that a layer needs, from packaging/assemble/frozen.py, and the places of their files. Python makes
 * `__file__` and the `__path__` of packages from the places, so that all other modules are found on the disk. Python
 * has no public name for the table of places; its own two entries must stay. */
struct place {
    const char *module, *place;
};
extern const struct place *_PyImport_FrozenAliases;
#define PLACES_OF_PYTHON                               \
    {"_frozen_importlib", "importlib._bootstrap"}, {   \
        "_frozen_importlib_external", "importlib._bootstrap_external" \
    }
#include "frozen.h"

static void use_frozen_modules(void) {
    PyImport_FrozenModules = modules;
    _PyImport_FrozenAliases = places;
}
#else
static void use_frozen_modules(void) {
}
#endif

HIDDEN int close_range(unsigned first, unsigned last, int flags) {
    return (int)syscall(SYS_close_range, first, last, flags); /* ENOSYS: Python closes them one by one */
}

HIDDEN void arc4random_buf(void *buffer, size_t size) {
    for (char *at = buffer, *end = at + size; at < end;) {
        ssize_t got = getrandom(at, (size_t)(end - at), 0);
        if (got > 0)
            at += got;
        else if (errno != EINTR)
            abort();
    }
}

/* Use the C library's function if it has one (2.30); otherwise convert the deadline to the clock that is available. */
HIDDEN int sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *deadline) {
    static int (*native)(sem_t *, clockid_t, const struct timespec *);
    static int looked;
    struct timespec now, real;
    if (!looked) {
        *(void **)&native = dlsym(RTLD_NEXT, "sem_clockwait");
        looked = 1;
    }
    if (native)
        return native(semaphore, clock, deadline);
    clock_gettime(clock, &now);
    clock_gettime(CLOCK_REALTIME, &real);
    long nanoseconds = real.tv_nsec + deadline->tv_nsec - now.tv_nsec;
    real.tv_sec += deadline->tv_sec - now.tv_sec;
    if (nanoseconds < 0) {
        real.tv_sec--;
        nanoseconds += NANOSECONDS;
    } else if (nanoseconds >= NANOSECONDS) {
        real.tv_sec++;
        nanoseconds -= NANOSECONDS;
    }
    real.tv_nsec = nanoseconds;
    return sem_timedwait(semaphore, &real);
}

static void stop(PyStatus status) {
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
}

static void add_path(PyConfig *config, const char *prefix, const char *rest) {
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/lib/python" PYTHON "%s", prefix, rest);
    wchar_t *wide = length > 0 && (size_t)length < sizeof path ? Py_DecodeLocale(path, NULL) : NULL;
    stop(wide ? PyWideStringList_Append(&config->module_search_paths, wide) : PyStatus_NoMemory());
    PyMem_RawFree(wide);
}

static void set_path(PyConfig *config, wchar_t **field, const char *prefix, const char *rest) {
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s%s", prefix, rest);
    stop(length > 0 && (size_t)length < sizeof path ? PyConfig_SetBytesString(config, field, path)
                                                    : PyStatus_NoMemory());
}

/* The base of the places of frozen modules, which the configuration cannot set. */
static void set_library(const char *prefix) {
    PyObject *library = PyUnicode_FromFormat("%s/lib/python" PYTHON, prefix);
    if (!library || PySys_SetObject("_stdlib_dir", library) < 0)
        Py_FatalError("no memory");
    Py_DECREF(library);
}

#ifdef PLAIN
int main(int argc, char **argv) {
    return Py_BytesMain(argc, argv);
}
#else
int main(int argc, char **argv, char **environment) {
    environ = environment; /* this linker creates a second `environ` in the program, which the C library does not fill */
    char executable[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", executable, sizeof executable - 1);
    if (length <= 0) {
        fputs("ctd-decoder: error: /proc is not mounted, so the program cannot find its own files\n", stderr);
        return 70;
    }
    executable[length] = 0;
    const char *prefix = dirname(dirname(executable));

    use_frozen_modules();
    PyPreConfig early;
    PyPreConfig_InitPythonConfig(&early);
    early.isolated = 1;
    early.utf8_mode = 1;
    stop(Py_PreInitialize(&early));

    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    config.isolated = 1;
    config.use_environment = 0;
    config.user_site_directory = 0;
    config.safe_path = 1;
    config.site_import = 0;
    config.parse_argv = 0;
    config.write_bytecode = 0;
    config.module_search_paths_set = 1;
    stop(PyConfig_SetBytesArgv(&config, argc, argv));
    set_path(&config, &config.prefix, prefix, "");
    set_path(&config, &config.exec_prefix, prefix, "");
    set_path(&config, &config.base_prefix, prefix, "");
    set_path(&config, &config.base_exec_prefix, prefix, "");
    set_path(&config, &config.executable, prefix, "/bin/ctd-decoder");
    set_path(&config, &config.base_executable, prefix, "/bin/ctd-decoder");
    add_path(&config, prefix, "");
    add_path(&config, prefix, "/lib-dynload");
    add_path(&config, prefix, "/site-packages");
    add_path(&config, prefix, "/provider-packages");
    stop(PyConfig_SetString(&config, &config.run_command, L"from decoder.__main__ import main\nmain()\n"));
    stop(Py_InitializeFromConfig(&config));
    PyConfig_Clear(&config);
    set_library(prefix);
    PyGC_Disable(); /* there is nothing to collect in a program that decrypts one layer and ends */
    return Py_RunMain();
}
#endif
