// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Hook: tp_btf/sched_process_fork. Every new process, before it first runs, so that each later record of it finds its parent. The tracepoint
 * and not a clone syscall: it also sees kernel threads and knows the child.
 * From 5.10. Enforces nothing.
 */
#include "filter.h"
#include "forkers.h"

SEC("tp_btf/sched_process_fork")
int BPF_PROG(sched_process_fork, struct task_struct *parent, struct task_struct *child)
{
	struct tg_filters *wanted = tg_filters();
	struct tg_process_key forker;
	struct tg_fork *record;

	if (child->pid != child->tgid) /* a thread */
		return 0;
	if (wanted && tg_consults(wanted, TG_FILTER_BINARY)) {
		__u32 member = tg_verdict(parent);

		if (member)
			tg_set_verdict(child, member);
	}
	tg_process_key(&forker, parent);
	if (child->real_parent->tgid != parent->tgid)
		tg_remember_forker(child, &forker);
	record = tg_reserve(TG_RING_LIFECYCLE, sizeof(*record), TG_RECORD_FORK, 0);
	if (!record)
		return 0;
	tg_process_header(&record->header, child);
	tg_process_key(&record->parent, child->real_parent);
	record->forker = forker;
	tg_submit(TG_RING_LIFECYCLE, record);
	return 0;
}
