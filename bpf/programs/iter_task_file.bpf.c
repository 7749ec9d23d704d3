// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Iterator: iter/task_file. Finds the owners of the TCP sockets that are older than the sensor, above all of listeners: what they accept from
 * now on is cloned from them. Read it to its end, once, after the hooks are attached; it writes nothing. Of processes that share a socket, the
 * one with the lowest pid owns it.
 * From 5.12. Enforces nothing.
 */
#include "socket.h"

SEC("iter/task_file")
int iter_task_file(struct bpf_iter__task_file *ctx)
{
	struct tg_filters *wanted = tg_filters();
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	struct sock *sk;

	if (!task || !file || !wanted)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || sk->sk_protocol != IPPROTO_TCP || tg_socket_owner(sk))
		return 0;
	tg_own_socket(sk, task, wanted, sk->__sk_common.skc_state == TCP_LISTEN ? TG_ROLE_LISTEN : TG_ROLE_UNKNOWN);
	return 0;
}
