/* Bounds how long OpenMP's threads spin while they wait for each other.
 *
 * libgomp's default, 300,000 turns, is milliseconds. On a machine that other processes use, threads
 * spin through their share of the cores while the thread that they wait for has none.
 * docs/performance.md has the measurements.
 *
 * libgomp reads its settings in its constructor, before any code of a program but this: the dynamic
 * linker calls the functions in .preinit_array before the constructors of all libraries. What they
 * put into the environment would be overwritten by the C library's constructor, so the program is
 * started again with the setting, which costs no more than loading it (some 20 ms): it is the same
 * process, nothing has run in it yet, and signals, files and arguments are as they were. A setting
 * of the user wins, and so the program is started again once at most.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

static char setting[] = "GOMP_SPINCOUNT=1000";
static const char *const settings[] = {"GOMP_SPINCOUNT=", "OMP_WAIT_POLICY="};

static void bound_spinning(int argc, char **argv, char **environment) {
  (void)argc;
  size_t count = 0;
  for (; environment[count] != NULL; ++count)
    for (size_t i = 0; i < sizeof settings / sizeof *settings; ++i)
      if (strncmp(environment[count], settings[i], strlen(settings[i])) == 0) return;
  /* Without an interpreter, the dynamic linker itself was started, with the program's name as an
   * argument: /proc/self/exe is not the program. */
  if (getauxval(AT_BASE) == 0) return;
  char program[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
  if (length <= 0) return;
  program[length] = '\0';
  char *extended[count + 2];
  memcpy(extended, environment, count * sizeof *environment);
  extended[count] = setting;
  extended[count + 1] = NULL;
  /* Returns only if it fails, and then the program continues without the setting. */
  execve(program, argv, extended);
}

typedef void initializer(int, char **, char **);
__attribute__((section(".preinit_array"), used)) static initializer *const first = bound_spinning;
