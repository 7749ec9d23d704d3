// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Iterator: iter/task. The processes that already run, one struct tg_exec of type TG_RECORD_TASK each, so that ancestry reaches init from the
 * first event on. Cheaper than /proc and exact: the key comes from the same fields as everywhere. Command line and cwd are left to /proc.
 * Read it after the hooks are attached, and again after the binary filters change: it looks every process up in them.
 * From 5.10. Enforces nothing.
 */
#include "process_image.h"

SEC("iter/task")
int iter_task(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct tg_filters *wanted = tg_filters();
	struct tg_subject subject;
	struct tg_image image;
	__u32 size;

	if (!task || !wanted || task->pid != task->tgid || !tg_image_open(&image, TG_SCRATCH_ITERATOR))
		return 0;
	image.record->header.type = TG_RECORD_TASK;
	tg_image_fill(&image, task);
	tg_image_subject(&subject, wanted, &image, task);
	if (task->flags & PF_KTHREAD)
		image.record->flags |= TG_EXEC_KERNEL_THREAD;

	size = sizeof(struct tg_exec) + image.data_size;
	barrier_var(size);
	if (size > sizeof(struct tg_exec_scratch))
		return 0;
	image.record->header.size = size;
	bpf_seq_write(ctx->meta->seq, image.record, size);
	return 0;
}
