// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Hook: tp_btf/cgroup_mkdir. Every cgroup with its path as soon as it exists, which is before its first process: a container is known by the
 * time it runs anything.
 * From 5.11 (bpf_get_current_task_btf). Enforces nothing.
 */
#include "cgroup.h"

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_mkdir, struct cgroup *cgroup, const char *path)
{
	tg_cgroup_record(TG_RECORD_CGROUP_MKDIR, cgroup, path);
	return 0;
}
