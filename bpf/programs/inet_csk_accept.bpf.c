// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Hook: fexit/inet_csk_accept. Who accepts a TCP connection, whoever made the listener and by whatever call: accept, accept4, io_uring, and
 * MPTCP, which accepts its first subflow here. No tracepoint stands on this way. Where the kernel has no trampolines, or refuses them,
 * sys_exit takes its place.
 * From 5.17 (bpf_get_func_ret: the number of arguments changed in 6.10, 92ef0fd55ac8). Enforces nothing.
 */
#include "socket.h"

SEC("fexit/inet_csk_accept")
int inet_csk_accept(void *ctx)
{
	__u64 sk = 0;

	if (bpf_get_func_ret(ctx, &sk) == 0 && sk)
		tg_accept((struct sock *)sk);
	return 0;
}
