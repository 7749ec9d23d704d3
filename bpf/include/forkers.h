/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Who forked a process, for a sensor that starts later. While one runs it has this from the fork records; the kernel forgets it when the forker
 * ends, or at once with CLONE_PARENT. So only then is it written here: a fork or an end without children costs a comparison.
 */
#ifndef TIDEGATE_FORKERS_H
#define TIDEGATE_FORKERS_H

#include "process.h"

#define TG_CHILDREN_MAX 64 /* left behind by one thread and remembered */

static __always_inline void tg_remember_forker(struct task_struct *child, const struct tg_process_key *forker)
{
	struct tg_process_start start = {
		.start_ktime_ns = BPF_CORE_READ(child, start_boottime),
		.pid = BPF_CORE_READ(child, tgid),
	};

	bpf_map_update_elem(&forkers, &start, forker, BPF_ANY);
}

/* task: a thread on its way out. Its children go to another thread of its process, or to whoever takes over orphans. */
static __always_inline void tg_remember_children(struct task_struct *task)
{
	struct list_head *head = (void *)task + bpf_core_field_offset(struct task_struct, children);
	struct list_head *node = head;
	struct tg_process_key forker, parent;
	struct tg_process_start start;

	if (task->children.next == head)
		return;
	tg_process_key(&forker, task);
	/* Read at the begin of a turn: 6.1 takes a jump back to what follows a call for a loop without end (clang 14). */
	for (int i = 0; i < TG_CHILDREN_MAX; i++) {
		node = BPF_CORE_READ(node, next);
		if (!node || node == head)
			break;
		tg_remember_forker((void *)node - bpf_core_field_offset(struct task_struct, sibling), &forker);
	}
	/* And who forked this one, so that lineage does not end here. */
	start = (struct tg_process_start){ .start_ktime_ns = forker.start_ktime_ns, .pid = forker.pid };
	if (bpf_map_lookup_elem(&forkers, &start))
		return;
	tg_process_key(&parent, task->real_parent);
	bpf_map_update_elem(&forkers, &start, &parent, BPF_ANY);
}

#endif
