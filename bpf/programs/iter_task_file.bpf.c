// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Iterator: iter/task_file. Finds the owners of the TCP sockets that are older than the sensor, above all of listeners: what they accept from
 * now on is cloned from them. Of processes that share a socket, the one with the lowest pid owns it. Read it to its end after the hooks are
 * attached, and again after the filters change: it looks every owner up in them. It writes nothing.
 * From 5.12. Enforces nothing.
 */
#include "socket.h"

SEC("iter/task_file")
int iter_task_file(struct bpf_iter__task_file *ctx)
{
	struct tg_filters *wanted = tg_filters();
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct tg_socket_owner *owner;
	struct socket *socket;
	struct sock *sk;

	if (!task || !file || !wanted)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	owner = tg_socket_owner(sk);
	if (owner) {
		if (owner->process.pid == (__u32)task->tgid)
			tg_judge_owner(owner, task, wanted);
		return 0;
	}
	tg_own_socket(sk, task, wanted, sk->__sk_common.skc_state == TCP_LISTEN ? TG_ROLE_LISTEN : TG_ROLE_UNKNOWN);
	return 0;
}
