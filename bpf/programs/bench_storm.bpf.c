// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Bench only, an object of its own: fills the data ring with close records as fast as one CPU can, through the filters and ring helpers of
 * the real hooks. User space gives this object the maps of the loaded tidegate.bpf.o, by name, and calls it with BPF_PROG_RUN and a struct
 * storm_run as context, as often as it likes.
 * From 5.17 (bpf_loop). Enforces nothing.
 */
#include "socket.h"

#define BENCH_CGROUPS_MAX 1024

struct storm_run {
	__u64 events;
	struct tg_process_key process;
	__u32 cgroups; /* entries of bench_cgroups to go through in turn; 0: cgroup id 0 */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BENCH_CGROUPS_MAX);
	__type(key, __u32);
	__type(value, __u64);
} bench_cgroups SEC(".maps");

struct storm {
	struct tg_filters *wanted;
	struct tg_socket_owner owner;
	__u32 pid;
	__u32 cgroups;
};

static long storm_event(__u32 index, struct storm *storm)
{
	struct tg_socket *record;

	if (storm->cgroups) {
		__u32 entry = index % storm->cgroups;
		__u64 *cgroup_id = bpf_map_lookup_elem(&bench_cgroups, &entry);

		storm->owner.cgroup_id = cgroup_id ? *cgroup_id : 0;
		storm->owner.process.pid = storm->pid + entry; /* a process is in one cgroup */
	}
	record = tg_socket_reserve(storm->wanted, TG_RECORD_CLOSE, &storm->owner);
	if (!record)
		return 0;
	record->cookie = index + 1;
	record->bytes_sent = 1000 + index;
	record->bytes_received = 100000 + index;
	record->established_ktime_ns = record->header.ktime_ns - 1000000;
	*(__u32 *)record->source_address = bpf_htonl(0x0a000001);
	*(__u32 *)record->destination_address = bpf_htonl(0x0a010000 | (index & 0xffff));
	record->source_port = 1024 + (index & 0x7fff);
	record->destination_port = 443;
	record->family = AF_INET;
	tg_submit(TG_RING_DATA, record);
	return 0;
}

SEC("syscall")
int bench_storm(struct storm_run *run)
{
	struct storm storm = {
		.wanted = tg_filters(),
		.pid = run->process.pid,
		.cgroups = run->cgroups,
	};

	if (!storm.wanted)
		return 1;
	storm.owner.process.start_ktime_ns = run->process.start_ktime_ns;
	storm.owner.process.exec_generation = run->process.exec_generation;
	storm.owner.process.pid = run->process.pid;
	bpf_loop(run->events, storm_event, &storm, 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
