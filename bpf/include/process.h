/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Who did it: the process's key and the header of its records. */
#ifndef TIDEGATE_PROCESS_H
#define TIDEGATE_PROCESS_H

#include "maps.h"

/* task: any thread of the process. */
static __always_inline void tg_process_key(struct tg_process_key *key, struct task_struct *task)
{
	key->start_ktime_ns = task->group_leader->start_boottime;
	key->exec_generation = task->self_exec_id;
	key->pid = task->tgid;
	key->pad = 0;
}

static __always_inline __u64 tg_cgroup_id(struct task_struct *task)
{
	return task->cgroups->dfl_cgrp->kn->id;
}

static __always_inline __u32 tg_uid(struct task_struct *task)
{
	return task->real_cred->uid.val;
}

/* All of the header but size, type and flags. */
static __always_inline void tg_process_header(struct tg_header *header, struct task_struct *task)
{
	header->ktime_ns = bpf_ktime_get_boot_ns();
	tg_process_key(&header->process, task);
	header->cgroup_id = tg_cgroup_id(task);
	header->tid = task->pid;
	header->uid = tg_uid(task);
}

/* Number of the thread in its own pid namespace, and that namespace. */
static __always_inline struct upid *tg_innermost_pid(struct task_struct *task)
{
	struct pid *pid = task->thread_pid;

	if (!pid)
		return NULL;
	return (void *)pid + bpf_core_field_offset(struct pid, numbers) + pid->level * sizeof(struct upid);
}

static __always_inline void tg_process_namespaces(struct tg_namespaces *inodes, struct task_struct *task)
{
	struct nsproxy *proxy = task->nsproxy;
	struct upid *number = tg_innermost_pid(task);

	__builtin_memset(inodes, 0, sizeof(*inodes));
	inodes->user = task->real_cred->user_ns->ns.inum;
	if (proxy) { /* none in a zombie */
		inodes->uts = proxy->uts_ns->ns.inum;
		inodes->ipc = proxy->ipc_ns->ns.inum;
		inodes->mnt = proxy->mnt_ns->ns.inum;
		inodes->pid_for_children = proxy->pid_ns_for_children->ns.inum;
		inodes->net = proxy->net_ns->ns.inum;
		inodes->time = proxy->time_ns->ns.inum;
		inodes->cgroup = proxy->cgroup_ns->ns.inum;
	}
	if (number)
		inodes->pid = BPF_CORE_READ(number, ns, ns.inum);
}

#endif
