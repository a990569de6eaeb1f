/* SPDX-License-Identifier: Apache-2.0 */
/* Tile registers (Intel AMX): Linux gives a process their state only when it asks. */
#include <stdatomic.h>

#include "internal.h"

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>

enum { HD_REQUEST_PERMISSION = 0x1023, HD_TILE_DATA = 18 };

static long request(void) { return syscall(SYS_arch_prctl, HD_REQUEST_PERMISSION, HD_TILE_DATA); }
#else
static long request(void) { return -1; }
#endif

/* Returns 0 when tile registers may be used, or 1 after `hd_set_error`. */
int32_t hd_use_tiles(void) {
  static atomic_int known; /* 0: not asked yet, 1: yes, 2: no */
  int state = atomic_load_explicit(&known, memory_order_relaxed);
  if (state == 0) {
    state = request() == 0 ? 1 : 2;
    atomic_store_explicit(&known, state, memory_order_relaxed);
  }
  if (state == 1) return 0;
  hd_set_error("the operating system gives this process no tile registers (AMX), which the model "
               "was compiled for; compile with -mattr=-amx-tile");
  return 1;
}
