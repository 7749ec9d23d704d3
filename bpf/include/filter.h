/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Which events user space wants. Without filters an event costs one array lookup, which the kernel inlines. */
#ifndef TIDEGATE_FILTER_H
#define TIDEGATE_FILTER_H

#include "process.h"
#include "ring.h"

/* What the filters ask of an event. */
struct tg_subject {
	__u64 cgroup_id;
	__u32 uid;
	__u32 namespace_member, binary_member; /* enum tg_filter_member */
};

static __always_inline struct tg_filters *tg_filters(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&filters, &zero);
}

static __always_inline bool tg_consults(const struct tg_filters *wanted, __u32 set)
{
	return (wanted->allow | wanted->deny) & set;
}

static __always_inline bool tg_set_passes(const struct tg_filters *wanted, __u32 set, __u32 member)
{
	if ((wanted->deny & set) && (member & TG_MEMBER_DENY))
		return false;
	return !(wanted->allow & set) || (member & TG_MEMBER_ALLOW);
}

/* Does the event pass? Counts it by kind when it does not. */
static __always_inline bool tg_passes(const struct tg_filters *wanted, __u32 kind, const struct tg_subject *subject)
{
	bool passes = wanted->kinds & (1U << kind);

	if (passes && (wanted->allow | wanted->deny)) {
		__u32 uid = subject->uid;
		__u64 cgroup_id = subject->cgroup_id;
		__u32 *member;

		if (tg_consults(wanted, TG_FILTER_UID)) {
			member = bpf_map_lookup_elem(&filter_uids, &uid);
			passes = passes && tg_set_passes(wanted, TG_FILTER_UID, member ? *member : 0);
		}
		if (tg_consults(wanted, TG_FILTER_CGROUP)) {
			member = bpf_map_lookup_elem(&filter_cgroups, &cgroup_id);
			passes = passes && tg_set_passes(wanted, TG_FILTER_CGROUP, member ? *member : 0);
		}
		passes = passes && tg_set_passes(wanted, TG_FILTER_NAMESPACE, subject->namespace_member) &&
			 tg_set_passes(wanted, TG_FILTER_BINARY, subject->binary_member);
	}
	if (!passes)
		tg_count_filtered(kind);
	return passes;
}

static __always_inline __u32 tg_namespace_lookup(__u32 inode)
{
	__u32 *member = bpf_map_lookup_elem(&filter_namespaces, &inode);

	return member ? *member : 0;
}

static __noinline __u32 tg_namespace_member(struct tg_namespaces *inodes)
{
	return tg_namespace_lookup(inodes->uts) | tg_namespace_lookup(inodes->ipc) | tg_namespace_lookup(inodes->mnt) |
	       tg_namespace_lookup(inodes->pid) | tg_namespace_lookup(inodes->pid_for_children) | tg_namespace_lookup(inodes->net) |
	       tg_namespace_lookup(inodes->time) | tg_namespace_lookup(inodes->cgroup) | tg_namespace_lookup(inodes->user);
}

static __always_inline __u32 tg_verdict(struct task_struct *task)
{
	__u32 *verdict;

	if (!kernel_has_task_storage())
		return 0;
	verdict = bpf_task_storage_get(&verdicts, task->group_leader, NULL, 0);
	return verdict ? *verdict : 0;
}

/* leader: of the process; a pointer the kernel vouches for, no NULL. */
static __always_inline void tg_set_verdict(struct task_struct *leader, __u32 member)
{
	__u32 *verdict;

	if (!kernel_has_task_storage())
		return;
	verdict = bpf_task_storage_get(&verdicts, leader, NULL, member ? BPF_LOCAL_STORAGE_GET_F_CREATE : 0);
	if (verdict)
		*verdict = member;
}

/* Everything about a process that the filters in force ask for. */
static __always_inline void tg_process_subject(struct tg_subject *subject, const struct tg_filters *wanted, struct task_struct *task)
{
	subject->cgroup_id = tg_cgroup_id(task);
	subject->uid = tg_uid(task);
	subject->namespace_member = 0;
	subject->binary_member = 0;
	if (tg_consults(wanted, TG_FILTER_NAMESPACE)) {
		struct tg_namespaces inodes;

		tg_process_namespaces(&inodes, task);
		subject->namespace_member = tg_namespace_member(&inodes);
	}
	if (tg_consults(wanted, TG_FILTER_BINARY))
		subject->binary_member = tg_verdict(task);
}

#endif
