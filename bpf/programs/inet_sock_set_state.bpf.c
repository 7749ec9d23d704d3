// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Hook: tp_btf/inet_sock_set_state. One hook sees every TCP connection made, accepted, refused and closed, and every listener, over IPv4 and
 * IPv6, only when the state changes: nothing is added to sending and receiving.
 *   connect  SYN_SENT -> ESTABLISHED, or -> CLOSE: it failed
 *   accept   none: inet_csk_accept or sys_exit sees who does it. Only a connection that ends unaccepted has it here, before its close
 *   listen   any -> LISTEN
 *   close    -> CLOSE of a connection that was established
 * Most of these happen in interrupts, on top of whatever process is there. The owner is therefore kept with the socket, from the changes that
 * its own system call makes, and by whoever accepted it. Sockets older than the sensor are adopted by iter/task_file.
 * From 5.12 (socket storage and cookies in tracing programs). Enforces nothing.
 */
#include "socket.h"

/* The kernel's counters take a SYN or FIN for a byte. */
static __always_inline void socket_bytes(struct tg_socket *record, struct sock *sk, struct tcp_sock *tcp, int old_state,
					 const struct tg_socket_owner *owner)
{
	bool fin_sent = old_state == TCP_FIN_WAIT1 || old_state == TCP_FIN_WAIT2 || old_state == TCP_CLOSING || old_state == TCP_LAST_ACK;
	bool fin_received = sk->__sk_common.skc_flags & (1UL << bpf_core_enum_value(enum sock_flags, SOCK_DONE));
	__u64 sent = tcp->bytes_acked, received = tcp->bytes_received;

	if (sent && owner && owner->role == TG_ROLE_CONNECT)
		sent--;
	if (sent && fin_sent && tcp->snd_una == tcp->write_seq)
		sent--;
	if (received && fin_received)
		received--;
	record->bytes_sent = sent;
	record->bytes_received = received;
}

/* Why a connection attempt ended; a caller that gave up leaves no error. */
static __always_inline __u16 connect_error(struct sock *sk)
{
	if (sk->sk_err)
		return sk->sk_err;
	return sk->sk_err_soft ? sk->sk_err_soft : ECONNABORTED;
}

/* The kind of event that a change of state is, or 0. */
static __always_inline __u32 socket_kind(int old_state, int new_state, const struct tg_socket_owner *owner)
{
	bool connecting = owner && owner->role == TG_ROLE_CONNECT;

	switch (new_state) {
	case TCP_LISTEN:
		return TG_RECORD_LISTEN;
	case TCP_ESTABLISHED: /* two ends that connect at once go through SYN_RECV too */
		return old_state == TCP_SYN_SENT || connecting ? TG_RECORD_CONNECT : TG_RECORD_ACCEPT;
	case TCP_CLOSE:
		if (old_state == TCP_SYN_SENT || (old_state == TCP_SYN_RECV && connecting))
			return TG_RECORD_CONNECT;
		return old_state == TCP_LISTEN || old_state == TCP_SYN_RECV || old_state == TCP_CLOSE ? 0 : TG_RECORD_CLOSE;
	}
	return 0;
}

/* Keeps the owner that is stored with the socket up to date. Returns it, or NULL when there is none. */
static __always_inline struct tg_socket_owner *socket_track(struct sock *sk, int old_state, int new_state, const struct tg_filters *wanted)
{
	struct tg_socket_owner *owner;

	if (new_state == TCP_SYN_SENT)
		return tg_own_socket(sk, bpf_get_current_task_btf(), wanted, TG_ROLE_CONNECT);
	if (new_state == TCP_LISTEN)
		return tg_own_socket(sk, bpf_get_current_task_btf(), wanted, TG_ROLE_LISTEN);

	owner = tg_socket_owner(sk);
	if (new_state == TCP_ESTABLISHED) {
		if (!owner) {
			/* Made to a listener without an owner: when it began is known all the same. */
			owner = bpf_sk_storage_get(&sockets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
			if (!owner)
				return NULL;
			__builtin_memset(owner, 0, sizeof(*owner));
			owner->uid = ~0U;
			owner->role = old_state == TCP_SYN_RECV ? TG_ROLE_LISTEN : TG_ROLE_UNKNOWN;
		}
		owner->established_ktime_ns = bpf_ktime_get_boot_ns();
		if (owner->role == TG_ROLE_LISTEN)
			owner->tid = 0;
	}
	return owner;
}

/* close(2) or shutdown(2), by the thread that runs; a kernel thread does it for MPTCP. Returns the owner from then on. */
static __always_inline struct tg_socket_owner *socket_shut(struct sock *sk, struct tg_socket_owner *owner, const struct tg_filters *wanted)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (owner && owner->process.pid)
		owner->tid = task->tgid == (int)owner->process.pid ? task->pid : 0;
	else if (task->flags & PF_KTHREAD)
		return owner;
	else if (owner)
		tg_fill_owner(owner, task, wanted);
	else
		return tg_own_socket(sk, task, wanted, TG_ROLE_UNKNOWN);
	return owner;
}

/* stored: the owner with the socket, which knows when it was established; owner: who did it. Either may be NULL. */
static __always_inline void socket_record(struct sock *sk, __u32 kind, int old_state, int new_state, const struct tg_filters *wanted,
					  const struct tg_socket_owner *stored, const struct tg_socket_owner *owner)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	struct tg_socket *record;

	if (!tcp)
		return;
	record = tg_socket_reserve(wanted, kind, owner && owner->process.pid ? owner : NULL);
	if (!record)
		return;
	record->cookie = bpf_get_socket_cookie(sk);
	tg_socket_endpoints(record, sk);
	if (stored)
		record->established_ktime_ns = stored->established_ktime_ns;
	if (kind == TG_RECORD_CLOSE)
		socket_bytes(record, sk, tcp, old_state, stored);
	else if (kind == TG_RECORD_LISTEN)
		record->backlog = sk->sk_max_ack_backlog;
	else if (new_state == TCP_CLOSE && kind == TG_RECORD_CONNECT)
		record->error = connect_error(sk);
	tg_submit(TG_RING_DATA, record);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, struct sock *sk, int old_state, int new_state)
{
	struct tg_filters *wanted = tg_filters();
	struct tg_socket_owner *stored, *owner, *holder = NULL;
	__u64 address = (__u64)sk;
	__u32 kind;

	if (!wanted || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (!(wanted->kinds & TG_SOCKET_KINDS)) {
		if (new_state == TCP_CLOSE)
			bpf_map_delete_elem(&connections, &address);
		return 0;
	}
	stored = socket_track(sk, old_state, new_state, wanted);
	if (old_state != TCP_LISTEN && new_state != TCP_LISTEN && (!stored || stored->role != TG_ROLE_CONNECT))
		holder = tg_holder(sk);
	owner = holder ? holder : stored;
	if (new_state == TCP_FIN_WAIT1 || new_state == TCP_LAST_ACK)
		owner = socket_shut(sk, owner, wanted);
	kind = socket_kind(old_state, new_state, stored);
	if (kind == TG_RECORD_ACCEPT) {
		bpf_get_socket_cookie(sk); /* gives it one, for whoever accepts */
		return 0;
	}
	if (!kind)
		return 0;
	/* It ends before, or without, anyone seen to accept it. */
	if (kind == TG_RECORD_CLOSE && !holder && stored && stored->role == TG_ROLE_LISTEN)
		socket_record(sk, TG_RECORD_ACCEPT, old_state, new_state, wanted, stored, stored);
	socket_record(sk, kind, old_state, new_state, wanted, stored, owner);
	if (holder && new_state == TCP_CLOSE)
		bpf_map_delete_elem(&connections, &address);
	return 0;
}
