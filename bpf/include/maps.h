/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* All maps. User space knows them by name and by the structs of tidegate_event.h. */
#ifndef TIDEGATE_MAPS_H
#define TIDEGATE_MAPS_H

#include "kernel_types.h"
#include "tidegate_event.h"

#define TG_RING_DEFAULT_BYTES (1 << 20) /* user space sets the real size before load */
#define TG_ENDED_MAX 4096 /* that end within the same moment */
#define TG_FORKERS_MAX 8192
#define TG_CONNECTIONS_MAX 262144 /* accepted ones that are open at a time */
#define TG_FILTER_UIDS_MAX 1024
#define TG_FILTER_CGROUPS_MAX 4096
#define TG_FILTER_NAMESPACES_MAX 1024
#define TG_FILTER_BINARIES_MAX 1024

/* fork, exec, exit, cgroups */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, TG_RING_DEFAULT_BYTES);
} lifecycle_ring SEC(".maps");

/* everything else */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, TG_RING_DEFAULT_BYTES);
} data_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tg_counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tg_filters);
} filters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, TG_FILTER_UIDS_MAX);
	__type(key, __u32);
	__type(value, __u32); /* enum tg_filter_member */
} filter_uids SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, TG_FILTER_CGROUPS_MAX);
	__type(key, __u64);
	__type(value, __u32);
} filter_cgroups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, TG_FILTER_NAMESPACES_MAX);
	__type(key, __u32);
	__type(value, __u32);
} filter_namespaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, TG_FILTER_BINARIES_MAX);
	__type(key, struct tg_binary_prefix);
	__type(value, __u32);
} filter_binaries SEC(".maps");

/* enum tg_filter_member bits of a process's binary, on its group leader: found at exec, copied at fork. Not there: in no list. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} verdicts SEC(".maps");

/* Processes of more than one thread whose end is told: only kernels before 6.16 write it. See sched_process_exit.bpf.c. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, TG_ENDED_MAX);
	__type(key, struct tg_process_key);
	__type(value, __u32);
} ended SEC(".maps");

/* Who forked a process, where the kernel itself no longer knows: see forkers.h. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, TG_FORKERS_MAX);
	__type(key, struct tg_process_start);
	__type(value, struct tg_process_key);
} forkers SEC(".maps");

enum tg_socket_role {
	TG_ROLE_UNKNOWN = 0, /* older than the sensor */
	TG_ROLE_CONNECT = 1,
	TG_ROLE_LISTEN = 2, /* and the connections cloned from it */
};

/* Who a socket belongs to; process.pid 0: not known. A listener's is cloned into each connection made to it, and stands for whoever will accept. */
struct tg_socket_owner {
	struct tg_process_key process;
	__u64 cgroup_id;
	__u64 established_ktime_ns;
	__u32 tid; /* last thread to act on the socket; 0: an interrupt or another process */
	__u32 uid;
	__u32 namespace_member, binary_member; /* enum tg_filter_member */
	__u32 role; /* enum tg_socket_role */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct tg_socket_owner);
} sockets SEC(".maps");

/* Who accepted a connection, and who has an older one over MPTCP, by the address of its TCP socket, until it closes: where these are seen, the
 * kernel does not vouch for the pointer, as storage with the socket would need. When it is full, that is counted, and the connection's end tells
 * both in the name of the listener's owner. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, TG_CONNECTIONS_MAX);
	__type(key, __u64);
	__type(value, struct tg_socket_owner);
} connections SEC(".maps");

/* An exec record while it is put together: too large for the stack, of unknown size before it is done. */
#define TG_EXEC_DATA_MAX (3 * TG_PATH_MAX + TG_ARGUMENTS_MAX)
struct tg_exec_scratch {
	char bytes[sizeof(struct tg_exec) + TG_EXEC_DATA_MAX];
};
_Static_assert(sizeof(struct tg_exec_scratch) <= 32768, "the kernel's bound on a per-CPU value");

/* A path is walked from its end and so written from the back: bytes [offset, TG_PATH_MAX) hold it. What lies behind is never reached; it lets
 * the verifier see that a name of unknown length, written below TG_PATH_MAX, stays inside. */
struct tg_path_scratch {
	__u32 offset;
	__u32 truncated; /* not 0: the beginning is missing */
	char bytes[2 * TG_PATH_MAX];
};

/* The iterators may be preempted by an exec on their CPU, so each has a scratch of its own. */
enum tg_scratch { TG_SCRATCH_EXEC = 0, TG_SCRATCH_ITERATOR = 1, TG_SCRATCHES = 2 };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TG_SCRATCHES);
	__type(key, __u32);
	__type(value, struct tg_exec_scratch);
} exec_scratch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TG_SCRATCHES);
	__type(key, __u32);
	__type(value, struct tg_path_scratch);
} path_scratch SEC(".maps");

#endif
