/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>

#include "internal.h"

static _Thread_local char error_message[HD_ERROR_SIZE];

void hd_set_error(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error_message, sizeof error_message, format, arguments);
  va_end(arguments);
}

const char *hd_get_error(void) { return error_message; }

void hd_clear_error(void) { error_message[0] = '\0'; }
