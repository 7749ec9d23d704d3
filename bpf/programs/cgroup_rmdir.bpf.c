// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Hook: tp_btf/cgroup_rmdir. The end of a cgroup, so that the reader can forget it.
 * From 5.11 (bpf_get_current_task_btf). Enforces nothing.
 */
#include "cgroup.h"

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(cgroup_rmdir, struct cgroup *cgroup, const char *path)
{
	tg_cgroup_record(TG_RECORD_CGROUP_RMDIR, cgroup, path);
	return 0;
}
