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

/* The process's cgroup in the v1 hierarchy that has the pids controller; NULL where v2 has it. Container runtimes use it on every v1 node. */
static __always_inline struct cgroup *tg_pids_cgroup(struct task_struct *task)
{
	struct css_set *set = task->cgroups;
	struct cgroup_subsys_state *state = NULL;
	struct cgroup *cgroup;

	if (!bpf_core_enum_value_exists(enum cgroup_subsys_id, pids_cgrp_id))
		return NULL;
	bpf_probe_read_kernel(&state, sizeof(state),
			      (void *)set + bpf_core_field_offset(struct css_set, subsys) +
				      bpf_core_enum_value(enum cgroup_subsys_id, pids_cgrp_id) * sizeof(state));
	cgroup = BPF_CORE_READ(state, cgroup);
	return BPF_CORE_READ(cgroup, root, hierarchy_id) == set->dfl_cgrp->root->hierarchy_id ? NULL : cgroup;
}

static __always_inline __u64 tg_cgroup_id(struct task_struct *task)
{
	struct cgroup *cgroup = task->cgroups->dfl_cgrp;

	if (cgroup->level == 0) {
		struct cgroup *v1 = tg_pids_cgroup(task);

		if (v1 && BPF_CORE_READ(v1, level) != 0)
			return BPF_CORE_READ(v1, kn, id) | TG_CGROUP_V1;
	}
	return cgroup->kn->id;
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
