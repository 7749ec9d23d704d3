// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Iterator: iter/task_file. Finds the owners of the TCP sockets that are older than the sensor, also under MPTCP, above all of listeners: what
 * they accept from now on is cloned from them. Of processes that share a socket, the one with the lowest pid owns it. Read it to its end after the hooks are
 * attached, and again after the filters change: it looks every owner up in them. It writes nothing.
 * From 5.12. Enforces nothing.
 */
#include "socket.h"

/* A connection over MPTCP. Its listeners need no owner: whoever accepts from one is seen. */
static __always_inline void tg_claim_mptcp(struct sock *mptcp, struct task_struct *task, const struct tg_filters *wanted)
{
	struct sock *sk = tg_first_subflow(mptcp);
	struct tg_socket_owner *holder, owner = {};
	__u64 address = (__u64)sk;

	if (!sk || BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_LISTEN || BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_CLOSE)
		return;
	holder = tg_holder(sk);
	if (holder) {
		if (holder->process.pid == (__u32)task->tgid)
			tg_judge_owner(holder, task, wanted);
		return;
	}
	tg_fill_owner(&owner, task, wanted);
	bpf_map_update_elem(&connections, &address, &owner, BPF_NOEXIST);
}

SEC("iter/task_file")
int iter_task_file(struct bpf_iter__task_file *ctx)
{
	struct tg_filters *wanted = tg_filters();
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct tg_socket_owner *owner, *holder;
	struct socket *socket;
	struct sock *sk;

	if (!task || !file || !wanted)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk)
		return 0;
	if (sk->sk_protocol == IPPROTO_MPTCP) {
		tg_claim_mptcp(sk, task, wanted);
		return 0;
	}
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	holder = tg_holder(sk);
	if (holder && holder->process.pid == (__u32)task->tgid)
		tg_judge_owner(holder, task, wanted);
	owner = tg_socket_owner(sk);
	if (owner) {
		if (owner->process.pid == (__u32)task->tgid)
			tg_judge_owner(owner, task, wanted);
		if (owner->process.pid)
			return 0;
	}
	if (holder)
		return 0;
	tg_own_socket(sk, task, wanted, sk->__sk_common.skc_state == TCP_LISTEN ? TG_ROLE_LISTEN : TG_ROLE_UNKNOWN);
	return 0;
}
