// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Hook: tp_btf/sched_process_exit. The end of every process: of its last thread, whichever that is, with the status its parent will get from
 * wait(2).
 * From 5.10. Enforces nothing.
 */
#include "filter.h"
#include "forkers.h"

#define EXIT_THREADS_MAX 64 /* threads that ended but are not yet reaped: their CPU time is not in the group's sum yet */

struct cpu_time {
	__u64 user_ns, system_ns; /* sampled at ticks */
	__u64 total_ns; /* exact */
};

static __always_inline void add_thread(struct cpu_time *time, struct task_struct *thread)
{
	time->user_ns += BPF_CORE_READ(thread, utime);
	time->system_ns += BPF_CORE_READ(thread, stime);
	time->total_ns += BPF_CORE_READ(thread, se.sum_exec_runtime);
}

static __noinline void group_cpu_time(struct cpu_time *time, struct task_struct *task, struct signal_struct *signal)
{
	struct list_head *head = (void *)signal + bpf_core_field_offset(struct signal_struct, thread_head);
	struct list_head *node = head;

	time->user_ns = BPF_CORE_READ(signal, utime);
	time->system_ns = BPF_CORE_READ(signal, stime);
	time->total_ns = BPF_CORE_READ(signal, sum_sched_runtime);
	if (BPF_CORE_READ(signal, nr_threads) == 1) {
		add_thread(time, task);
		return;
	}
	for (int i = 0; i < EXIT_THREADS_MAX; i++) {
		node = BPF_CORE_READ(node, next);
		if (!node || node == head)
			return;
		add_thread(time, (void *)node - bpf_core_field_offset(struct task_struct, thread_node));
	}
}

/* Divides the exact total as the samples divide it, like the kernel's cputime_adjust() does for getrusage(2) and /proc. */
static __always_inline void divide_cpu_time(struct tg_exit *record, const struct cpu_time *time)
{
	__u64 system = time->system_ns, sampled = time->user_ns + time->system_ns, total = time->total_ns;

	if (!system) {
		record->user_ns = total;
		return;
	}
	/* Scaled so that the product of both fits 64 bits, and back. */
	__u32 shift = 0;
	for (; shift < 32 && ((sampled | total) >> 32); shift++) {
		sampled >>= 1;
		system >>= 1;
		total >>= 1;
	}
	system = (sampled ? system * total / sampled : 0) << shift;
	record->system_ns = system;
	record->user_ns = time->total_ns - system;
}

/*
 * Is this the end of the process? Since 6.16 the kernel says so. Before, threads that end at the same moment may all find no thread alive;
 * the first of them to come here tells. A thread that finds itself alone can only be late, so it has nothing to leave for others.
 */
static __always_inline bool is_end_of_process(__u64 *ctx, struct task_struct *task, struct signal_struct *signal)
{
	struct tg_process_key key;
	__u32 told = 1;

	if (bpf_core_field_exists(((struct trace_event_raw_sched_process_exit *)0)->group_dead))
		return ctx[1];
	if (signal->live.counter != 0)
		return false;
	tg_process_key(&key, task);
	if (signal->nr_threads == 1)
		return !bpf_map_lookup_elem(&ended, &key);
	/* The upper half of what a map function returns is anything before 6.4 (d7ba4cc900bf). */
	return (int)bpf_map_update_elem(&ended, &key, &told, BPF_NOEXIST) != -EEXIST;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(sched_process_exit, struct task_struct *task)
{
	struct signal_struct *signal = task->signal;
	struct tg_filters *wanted = tg_filters();
	struct tg_subject subject;
	struct tg_exit *record;
	struct cpu_time time;
	__u32 flags = 0;

	tg_remember_children(task);
	if (!wanted || !is_end_of_process(ctx, task, signal))
		return 0;
	if (task->flags & PF_KTHREAD) {
		flags = TG_FLAG_HIDDEN;
	} else {
		tg_process_subject(&subject, wanted, task);
		if (!tg_passes(wanted, TG_RECORD_EXIT, &subject))
			flags = TG_FLAG_HIDDEN;
	}
	record = tg_reserve(TG_RING_LIFECYCLE, sizeof(*record), TG_RECORD_EXIT, flags);
	if (!record)
		return 0;
	tg_process_header(&record->header, task);
	tg_process_key(&record->parent, task->real_parent);
	record->status = signal->flags & SIGNAL_GROUP_EXIT ? signal->group_exit_code : task->group_leader->exit_code;
	group_cpu_time(&time, task, signal);
	divide_cpu_time(record, &time);
	tg_submit(TG_RING_LIFECYCLE, record);
	return 0;
}
