/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#include "maps.h"
const struct refusal *unused __attribute__((unused));
char _license[] SEC("license") = "Dual MIT/GPL";
