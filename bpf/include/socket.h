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

/* Makes task the owner. In process context only. */
static __always_inline struct tg_socket_owner *tg_own_socket(struct sock *sk, struct task_struct *task, const struct tg_filters *wanted,
							     enum tg_socket_role role)
{
	struct tg_socket_owner *owner = bpf_sk_storage_get(&sockets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (!owner)
		return NULL;
	tg_process_key(&owner->process, task);
	owner->established_ktime_ns = 0;
	owner->tid = task->pid;
	owner->role = role;
	tg_judge_owner(owner, task, wanted);
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

#endif
