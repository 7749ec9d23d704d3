/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Sockets: who owns one, and the records about it. */
#ifndef TIDEGATE_SOCKET_H
#define TIDEGATE_SOCKET_H

#include "filter.h"

#define TG_SOCKET_KINDS \
	(1U << TG_RECORD_CONNECT | 1U << TG_RECORD_ACCEPT | 1U << TG_RECORD_LISTEN | 1U << TG_RECORD_CLOSE)

static __always_inline struct tg_socket_owner *tg_socket_owner(struct sock *sk)
{
	return bpf_sk_storage_get(&sockets, sk, NULL, 0);
}

/* Looks task, the owner, up in the filters. */
static __always_inline void tg_judge_owner(struct tg_socket_owner *owner, struct task_struct *task, const struct tg_filters *wanted)
{
	struct tg_subject subject;

	tg_process_subject(&subject, wanted, task);
	owner->cgroup_id = subject.cgroup_id;
	owner->uid = subject.uid;
	owner->namespace_member = subject.namespace_member;
	owner->binary_member = subject.binary_member;
}

static __always_inline void tg_fill_owner(struct tg_socket_owner *owner, struct task_struct *task, const struct tg_filters *wanted)
{
	tg_process_key(&owner->process, task);
	owner->tid = task->pid;
	tg_judge_owner(owner, task, wanted);
}

/* Who accepted the connection (map `connections`), or NULL: nobody yet, or it is none that one accepts. */
static __always_inline struct tg_socket_owner *tg_holder(struct sock *sk)
{
	__u64 address = (__u64)sk;

	return bpf_map_lookup_elem(&connections, &address);
}

/* The TCP socket that an MPTCP socket began with. */
static __always_inline struct sock *tg_first_subflow(struct sock *sk)
{
	if (!bpf_core_type_exists(struct mptcp_sock))
		return NULL;
	return BPF_CORE_READ((struct mptcp_sock *)sk, first);
}

/* Makes task the owner. In process context only. */
static __always_inline struct tg_socket_owner *tg_own_socket(struct sock *sk, struct task_struct *task, const struct tg_filters *wanted,
							     enum tg_socket_role role)
{
	struct tg_socket_owner *owner = bpf_sk_storage_get(&sockets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (!owner)
		return NULL;
	tg_fill_owner(owner, task, wanted);
	owner->established_ktime_ns = 0;
	owner->role = role;
	return owner;
}

/* A record with its header filled in from the owner (NULL: not known), or NULL when a filter rejects it or the ring is full. */
static __always_inline struct tg_socket *tg_socket_reserve(const struct tg_filters *wanted, __u32 kind, const struct tg_socket_owner *owner)
{
	struct tg_subject subject = { .uid = ~0U };
	struct tg_header *header;
	struct tg_socket *record;

	if (owner) {
		subject.cgroup_id = owner->cgroup_id;
		subject.uid = owner->uid;
		subject.namespace_member = owner->namespace_member;
		subject.binary_member = owner->binary_member;
	}
	if (!tg_passes(wanted, kind, &subject))
		return NULL;
	record = tg_reserve(TG_RING_DATA, sizeof(*record), kind, owner ? 0 : TG_FLAG_NO_OWNER);
	if (!record)
		return NULL;
	header = &record->header;
	header->ktime_ns = bpf_ktime_get_boot_ns();
	header->cgroup_id = subject.cgroup_id;
	header->uid = subject.uid;
	if (owner) {
		header->process = owner->process;
		header->tid = owner->tid;
	}
	return record;
}

/* sk: of a connection or listener over TCP; the kernel need not vouch for the pointer. */
static __always_inline void tg_socket_endpoints(struct tg_socket *record, struct sock *sk)
{
	struct inet_sock *inet = (struct inet_sock *)sk;
	/* ::ffff:a.b.c.d is IPv4 spoken through an IPv6 socket; the IPv4 fields are then filled in too. */
	__u32 mapped[4] = {};

	record->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (record->family == AF_INET6) {
		bpf_core_read(mapped, sizeof(mapped), &sk->__sk_common.skc_v6_daddr);
		if (!mapped[0] && !mapped[1] && mapped[2] == bpf_htonl(0xffff))
			record->family = AF_INET;
	}
	if (record->family == AF_INET6) {
		bpf_core_read(record->source_address, sizeof(record->source_address), &sk->__sk_common.skc_v6_rcv_saddr);
		bpf_core_read(record->destination_address, sizeof(record->destination_address), &sk->__sk_common.skc_v6_daddr);
	} else {
		*(__u32 *)record->source_address = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
		*(__u32 *)record->destination_address = BPF_CORE_READ(sk, __sk_common.skc_daddr);
	}
	/* Not skc_num: a socket on its way to CLOSE has given its port back. */
	record->source_port = bpf_ntohs(BPF_CORE_READ(inet, inet_sport));
	record->destination_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	record->network_namespace = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
}

/*
 * The process that runs has accepted the connection: says so, and remembers it for the close. sk: as accept gave it, the MPTCP socket or the TCP
 * socket under it; the kernel need not vouch for it.
 */
static __always_inline void tg_accept(struct sock *sk)
{
	struct tg_filters *wanted = tg_filters();
	struct tg_socket_owner owner = {};
	struct tg_socket *record;
	__u64 address;

	if (!wanted || !(wanted->kinds & TG_SOCKET_KINDS))
		return;
	if (BPF_CORE_READ(sk, sk_protocol) == IPPROTO_MPTCP)
		sk = tg_first_subflow(sk);
	/* What has ended before it was accepted has had its events. */
	if (!sk || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP || BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_CLOSE)
		return;
	address = (__u64)sk;
	owner.role = TG_ROLE_LISTEN;
	tg_fill_owner(&owner, bpf_get_current_task_btf(), wanted);
	if (bpf_map_update_elem(&connections, &address, &owner, BPF_ANY)) {
		tg_count_untracked_accept();
		return;
	}
	record = tg_socket_reserve(wanted, TG_RECORD_ACCEPT, &owner);
	if (!record)
		return;
	record->cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	tg_socket_endpoints(record, sk);
	tg_submit(TG_RING_DATA, record);
}

#endif
