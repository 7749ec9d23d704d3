/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Records that BPF programs write to the ring buffers and the native reader decodes. Both sides compile this one file:
 * BPF programs after kernel_types.h (which supplies __u32 and friends), the addon after <linux/types.h>.
 *
 * Every record opens with struct tg_header. Padding is explicit, every layout is asserted, and integers are native endian: both sides
 * run on the same machine. All times are CLOCK_BOOTTIME nanoseconds (bpf_ktime_get_boot_ns, task->start_boottime).
 *
 * A process image is named by three numbers the kernel itself keeps: thread group id, start_boottime of the group leader, and
 * self_exec_id, which the kernel increments with every execve and copies at fork. Together they are exact under pid reuse, need no map in
 * the kernel, and read the same from a tracepoint and from an iterator.
 */
#ifndef TIDEGATE_EVENT_H
#define TIDEGATE_EVENT_H

/* Record types. Values from TG_RECORD_EXEC on equal tidegate.v1.Kind of the protobuf schema (native/ asserts it); fork and cgroup records only
 * feed the reader's tables and never become events. */
enum tg_record_type {
	TG_RECORD_EXEC = 1,
	TG_RECORD_EXIT = 2,
	TG_RECORD_CONNECT = 3,
	TG_RECORD_ACCEPT = 4,
	TG_RECORD_LISTEN = 6,
	TG_RECORD_CLOSE = 7,
	TG_KIND_MAX = 32, /* kinds are below this: sizes the per-kind counters and the kind mask */

	TG_RECORD_FORK = 64,
	TG_RECORD_CGROUP_MKDIR = 65,
	TG_RECORD_CGROUP_RMDIR = 66,
	TG_RECORD_TASK = 67, /* task iterator: a process that already ran; struct tg_exec without arguments */
};

enum tg_header_flags {
	TG_FLAG_HIDDEN = 1 << 0, /* a filter rejected the event: the reader updates its tables and emits nothing */
	TG_FLAG_NO_OWNER = 1 << 1, /* socket event whose owner is not known; pid and start_ktime_ns are 0 */
};

/* Bit of a cgroup id: it is one of the v1 hierarchy with the pids controller. It stands for a process that is in the root of v2, which on nodes
 * without v2 all are. Ids of the kernel count up from 1, with a generation in the upper half that does not come this far. */
#define TG_CGROUP_V1 (1ULL << 63)

struct tg_process_key {
	__u64 start_ktime_ns; /* task->group_leader->start_boottime */
	__u64 exec_generation; /* task->self_exec_id */
	__u32 pid; /* kernel tgid, which user space calls pid */
	__u32 pad;
};
_Static_assert(sizeof(struct tg_process_key) == 24, "tg_process_key layout");

struct tg_header {
	__u32 size; /* whole record, header included, bytes */
	__u16 type; /* enum tg_record_type */
	__u16 flags; /* enum tg_header_flags */
	__u64 ktime_ns; /* when it happened */
	struct tg_process_key process; /* the process it happened in; for fork the child */
	__u64 cgroup_id; /* of that process, in cgroup v2 (the default hierarchy); with TG_CGROUP_V1: see there */
	__u32 tid; /* thread, 0 where an interrupt did it */
	__u32 uid; /* real uid in the initial user namespace */
};
_Static_assert(sizeof(struct tg_header) == 56, "tg_header layout");

struct tg_fork {
	struct tg_header header;
	struct tg_process_key parent; /* real_parent: with CLONE_PARENT that of the forker */
	struct tg_process_key forker; /* who called clone */
};
_Static_assert(sizeof(struct tg_fork) == 104, "tg_fork layout");

#define TG_ARGUMENTS_MAX 16384 /* bytes of argv kept; longer is cut and flagged */
#define TG_PATH_MAX 4096
#define TG_TTY_MAX 32

enum tg_exec_flags {
	TG_EXEC_ARGUMENTS_TRUNCATED = 1 << 0,
	TG_EXEC_ARGUMENTS_UNREADABLE = 1 << 1, /* a page of argv was not resident */
	TG_EXEC_BINARY_TRUNCATED = 1 << 2, /* path longer than TG_PATH_MAX or deeper than the walk */
	TG_EXEC_CWD_TRUNCATED = 1 << 3,
	TG_EXEC_MEMFD = 1 << 4, /* memfd_create file */
	TG_EXEC_DELETED = 1 << 5, /* binary unlinked (and not a memfd) */
	TG_EXEC_UPPER_LAYER = 1 << 6, /* overlayfs: the file lies in the upper, writable layer */
	TG_EXEC_SETUID = 1 << 7, /* mode bit of the binary */
	TG_EXEC_SETGID = 1 << 8,
	TG_EXEC_KERNEL_THREAD = 1 << 9, /* task records only */
};

struct tg_credentials {
	__u32 uid, gid, euid, egid, suid, sgid, fsuid, fsgid; /* in the initial user namespace */
	__u32 securebits;
	__u32 login_uid; /* 0xffffffff: not set */
	__u64 cap_permitted, cap_effective, cap_inheritable, cap_bounding, cap_ambient;
};
_Static_assert(sizeof(struct tg_credentials) == 80, "tg_credentials layout");

struct tg_namespaces { /* inode numbers, as under /proc/<pid>/ns */
	__u32 uts, ipc, mnt, pid, pid_for_children, net, time, cgroup, user, pad;
};
_Static_assert(sizeof(struct tg_namespaces) == 40, "tg_namespaces layout");

struct tg_exec {
	struct tg_header header;
	struct tg_process_key parent; /* real_parent: whoever took the process over, once the one that forked it has ended */
	struct tg_credentials credentials;
	struct tg_namespaces namespaces;
	__u64 inode; /* of the binary */
	__u32 device; /* s_dev, kernel encoding: major << 20 | minor */
	__u32 links; /* i_nlink */
	__u32 flags; /* enum tg_exec_flags */
	__u32 arguments_total; /* bytes of argv before truncation */
	__u32 namespace_pid; /* pid as the process itself sees it */
	__u16 binary_size, cwd_size, raw_path_size, arguments_size; /* bytes in data, in this order, no terminators between */
	__u32 pad;
	char tty[TG_TTY_MAX]; /* empty: none */
	char comm[16];
	char data[]; /* binary, cwd, raw path, then argv: strings each ended by NUL */
};
_Static_assert(sizeof(struct tg_exec) == 56 + 24 + 80 + 40 + 8 + 16 + 4 + 8 + 4 + 32 + 16, "tg_exec layout");

struct tg_exit {
	struct tg_header header;
	struct tg_process_key parent; /* as in tg_exec */
	__u64 user_ns, system_ns; /* CPU time of the whole thread group */
	__u32 status; /* wait status: code << 8 | core << 7 | signal */
	__u32 pad;
};
_Static_assert(sizeof(struct tg_exit) == 104, "tg_exit layout");

/* Key of map `forkers`: a process, whichever of its images. */
struct tg_process_start {
	__u64 start_ktime_ns;
	__u32 pid;
	__u32 pad;
};
_Static_assert(sizeof(struct tg_process_start) == 16, "tg_process_start layout");

/* connect, accept, listen, close. The owner in the header is the process that called connect, listen or accept (accepted
 * unseen: the listener's). */
struct tg_socket {
	struct tg_header header;
	__u64 cookie; /* 0 or a number unique to the socket, the same in all its events */
	__u64 bytes_sent, bytes_received; /* close: acknowledged payload bytes each way */
	__u64 established_ktime_ns; /* close: 0 when it never was */
	__u8 source_address[16], destination_address[16]; /* IPv4 in the first 4 bytes; source is this host's end */
	__u16 source_port, destination_port; /* host byte order */
	__u16 family; /* AF_INET or AF_INET6 */
	__u16 error; /* connect: errno of a failed attempt, 0 on success */
	__u32 backlog; /* listen */
	__u32 network_namespace; /* inode */
};
_Static_assert(sizeof(struct tg_socket) == 56 + 32 + 32 + 16, "tg_socket layout");

#define TG_CGROUP_PATH_MAX 512
struct tg_cgroup {
	struct tg_header header; /* process: who made it; cgroup_id: of that process */
	__u64 id; /* of the cgroup made or removed, as in tg_header */
	__u32 pad;
	__u16 level;
	__u16 path_size; /* without NUL */
	char path[TG_CGROUP_PATH_MAX]; /* from the hierarchy's root */
};
_Static_assert(sizeof(struct tg_cgroup) == 56 + 16 + TG_CGROUP_PATH_MAX, "tg_cgroup layout");

/* Two ring buffers: a flood on the data ring cannot push out lifecycle records (fork, exec, exit, cgroups). */
enum tg_ring { TG_RING_LIFECYCLE = 0, TG_RING_DATA = 1, TG_RINGS = 2 };

/* Per-CPU counters, map `counters`, one entry. */
struct tg_counters {
	__u64 submitted[TG_RINGS];
	__u64 lost_by_kind[TG_KIND_MAX]; /* reserve failed: an event is lost */
	__u64 lost_fork; /* fork and hidden lifecycle records lost: no event, but ancestry may have a hole */
	__u64 lost_cgroup;
	__u64 untracked_accepts; /* map `connections` was full */
	__u64 filtered_by_kind[TG_KIND_MAX];
};

/* Filters, map `filters`, one entry; sets are maps of their own. A set with its bit in neither word is not consulted. */
enum tg_filter_set {
	TG_FILTER_UID = 1 << 0, /* map filter_uids: __u32 */
	TG_FILTER_CGROUP = 1 << 1, /* map filter_cgroups: __u64 cgroup id */
	TG_FILTER_NAMESPACE = 1 << 2, /* map filter_namespaces: __u32 inode number of any of the process's namespaces */
	TG_FILTER_BINARY = 1 << 3, /* map filter_binaries: longest-prefix trie on the binary's path */
};
struct tg_filters {
	__u32 kinds; /* bit per kind that is let through */
	__u32 allow; /* enum tg_filter_set: only members pass */
	__u32 deny; /* enum tg_filter_set: members do not pass; deny wins */
	__u32 pad;
};
_Static_assert(sizeof(struct tg_filters) == 16, "tg_filters layout");

/* Value (__u32) of every entry of the four sets: which of the two lists the member is in. */
enum tg_filter_member {
	TG_MEMBER_ALLOW = 1 << 0,
	TG_MEMBER_DENY = 1 << 1,
};

/* Key of filter_binaries. The most specific prefix decides alone, so user space gives an entry the bits of every shorter prefix it extends. */
#define TG_BINARY_PREFIX_MAX 256 /* the kernel's own bound on trie keys */
struct tg_binary_prefix {
	__u32 bits; /* length of the prefix, bits */
	char path[TG_BINARY_PREFIX_MAX];
};
_Static_assert(sizeof(struct tg_binary_prefix) == 4 + TG_BINARY_PREFIX_MAX, "tg_binary_prefix layout");

#endif
