/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What the kernel's headers say of sockets; they are not for programs, or drag in libc. */
#ifndef TORBPF_SOCKET_H
#define TORBPF_SOCKET_H

#define AF_INET	  2
#define AF_INET6  10
#define AF_PACKET 17

#define SOCK_STREAM 1
#define SOCK_RAW    3

#define SOL_IP	   0
#define SOL_SOCKET 1
#define SOL_IPV6   41

#define SO_BINDTODEVICE 25
#define SO_MARK		36
#define SO_ORIGINAL_DST 80 /* netfilter's, and IP6T_SO_ORIGINAL_DST */

/* What a program at a control group returns to let the system call go on, or to have it fail
 * with EPERM. */
#define ALLOW  1
#define REFUSE 0

#endif
