// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Hook: tp_btf/inet_sock_set_state. One hook sees every TCP connection made, accepted, refused and closed, and every listener, over IPv4 and
 * IPv6, only when the state changes: nothing is added to sending and receiving.
 *   connect  SYN_SENT -> ESTABLISHED, or -> CLOSE: it failed
 *   accept   SYN_RECV -> ESTABLISHED
 *   listen   any -> LISTEN
 *   close    -> CLOSE of a connection that was established
 * Most of these happen in interrupts, on top of whatever process is there. The owner is therefore kept with the socket, from the changes that
 * its own system call makes. Sockets older than the sensor are adopted by iter/task_file.
 * From 5.12 (socket storage and cookies in tracing programs). Enforces nothing.
 */
#include "socket.h"

static __always_inline void socket_endpoints(struct tg_socket *record, struct sock *sk, struct tcp_sock *tcp)
{
	/* ::ffff:a.b.c.d is IPv4 spoken through an IPv6 socket; the IPv4 fields are then filled in too. */
	__u32 mapped[4] = {};

	record->family = sk->__sk_common.skc_family;
	if (record->family == AF_INET6) {
		bpf_core_read(mapped, sizeof(mapped), &sk->__sk_common.skc_v6_daddr);
		if (!mapped[0] && !mapped[1] && mapped[2] == bpf_htonl(0xffff))
			record->family = AF_INET;
	}
	if (record->family == AF_INET6) {
		bpf_core_read(record->source_address, sizeof(record->source_address), &sk->__sk_common.skc_v6_rcv_saddr);
		bpf_core_read(record->destination_address, sizeof(record->destination_address), &sk->__sk_common.skc_v6_daddr);
	} else {
		*(__u32 *)record->source_address = sk->__sk_common.skc_rcv_saddr;
		*(__u32 *)record->destination_address = sk->__sk_common.skc_daddr;
	}
	/* Not skc_num: a socket on its way to CLOSE has given its port back. */
	record->source_port = bpf_ntohs(tcp->inet_conn.icsk_inet.inet_sport);
	record->destination_port = bpf_ntohs(sk->__sk_common.skc_dport);
	record->network_namespace = sk->__sk_common.skc_net.net->ns.inum;
}

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

/* Keeps the owner up to date. Returns it, or NULL when it is not known. */
static __always_inline struct tg_socket_owner *socket_track(struct sock *sk, int old_state, int new_state, const struct tg_filters *wanted)
{
	struct tg_socket_owner *owner;

	if (new_state == TCP_SYN_SENT)
		return tg_own_socket(sk, bpf_get_current_task_btf(), wanted, TG_ROLE_CONNECT);
	if (new_state == TCP_LISTEN)
		return tg_own_socket(sk, bpf_get_current_task_btf(), wanted, TG_ROLE_LISTEN);

	owner = tg_socket_owner(sk);
	if (new_state == TCP_FIN_WAIT1 || new_state == TCP_LAST_ACK) {
		/* close(2) or shutdown(2), by the thread that runs. */
		struct task_struct *task = bpf_get_current_task_btf();

		if (!owner)
			return tg_own_socket(sk, task, wanted, TG_ROLE_UNKNOWN);
		owner->tid = task->tgid == (int)owner->process.pid ? task->pid : 0;
	} else if (owner && new_state == TCP_ESTABLISHED) {
		owner->established_ktime_ns = bpf_ktime_get_boot_ns();
		if (owner->role == TG_ROLE_LISTEN)
			owner->tid = 0;
	}
	return owner;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, struct sock *sk, int old_state, int new_state)
{
	struct tg_filters *wanted = tg_filters();
	struct tg_socket_owner *owner;
	struct tg_socket *record;
	struct tcp_sock *tcp;
	__u32 kind;

	if (!wanted || !(wanted->kinds & TG_SOCKET_KINDS) || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	owner = socket_track(sk, old_state, new_state, wanted);
	kind = socket_kind(old_state, new_state, owner);
	if (!kind)
		return 0;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return 0;
	record = tg_socket_reserve(wanted, kind, owner);
	if (!record)
		return 0;
	record->cookie = bpf_get_socket_cookie(sk);
	socket_endpoints(record, sk, tcp);
	if (owner)
		record->established_ktime_ns = owner->established_ktime_ns;
	if (kind == TG_RECORD_CLOSE)
		socket_bytes(record, sk, tcp, old_state, owner);
	else if (kind == TG_RECORD_LISTEN)
		record->backlog = sk->sk_max_ack_backlog;
	else if (new_state == TCP_CLOSE)
		record->error = connect_error(sk);
	tg_submit(TG_RING_DATA, record);
	return 0;
}
