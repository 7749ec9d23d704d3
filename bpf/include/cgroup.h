/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The record of a cgroup made or removed. */
#ifndef TIDEGATE_CGROUP_H
#define TIDEGATE_CGROUP_H

#include "process.h"
#include "ring.h"

static __always_inline void tg_cgroup_record(__u32 type, struct cgroup *cgroup, const char *path)
{
	struct task_struct *task = bpf_get_current_task_btf();
	int hierarchy = cgroup->root->hierarchy_id;
	struct tg_cgroup *record;
	__u64 version = 0;
	long size;

	if (hierarchy != task->cgroups->dfl_cgrp->root->hierarchy_id) {
		struct cgroup *pids = tg_pids_cgroup(task);

		if (!pids || hierarchy != BPF_CORE_READ(pids, root, hierarchy_id))
			return;
		version = TG_CGROUP_V1;
	}
	record = tg_reserve(TG_RING_LIFECYCLE, sizeof(*record), type, 0);
	if (!record)
		return;
	tg_process_header(&record->header, task);
	record->id = cgroup->kn->id | version;
	record->level = cgroup->level;
	size = bpf_probe_read_kernel_str(record->path, sizeof(record->path), path);
	record->path_size = size > 0 ? size - 1 : 0;
	tg_submit(TG_RING_LIFECYCLE, record);
}

#endif
