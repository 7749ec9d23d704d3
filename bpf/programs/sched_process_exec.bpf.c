// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Hook: tp_btf/sched_process_exec. Every execve that succeeded, with the new program in place and nothing of it run yet. The tracepoint and
 * not the syscall: one place for execve, execveat and the kernel's own helpers, after the kernel has resolved the file, and after the
 * calling thread has become the leader and the only thread of its process.
 * From 5.10. Enforces nothing.
 */
#include "process_image.h"

static __always_inline void exec_cwd(struct tg_image *image, struct task_struct *task)
{
	struct fs_struct *fs = task->fs;

	if (!fs)
		return;
	tg_walk_path(image->paths, fs->pwd.mnt, fs->pwd.dentry);
	if (image->paths->truncated)
		image->record->flags |= TG_EXEC_CWD_TRUNCATED;
	image->record->cwd_size = tg_copy_path(tg_image_tail(image), image->paths);
	image->data_size += image->record->cwd_size;
}

static __always_inline void exec_raw_path(struct tg_image *image, struct linux_binprm *bprm)
{
	long size = bpf_probe_read_kernel_str(tg_image_tail(image), TG_PATH_MAX, bprm->filename);

	if (size <= 1 || size > TG_PATH_MAX)
		return;
	image->record->raw_path_size = size - 1;
	image->data_size += size - 1;
}

static __always_inline void exec_arguments(struct tg_image *image, struct task_struct *task)
{
	struct tg_exec *record = image->record;
	struct mm_struct *mm = task->mm;
	char *target = tg_image_tail(image);
	unsigned long start, size;

	if (!mm)
		return;
	start = mm->arg_start;
	size = mm->arg_end - start;
	record->arguments_total = size;
	if (size > TG_ARGUMENTS_MAX) {
		size = TG_ARGUMENTS_MAX;
		record->flags |= TG_EXEC_ARGUMENTS_TRUNCATED;
	}
	if (bpf_probe_read_user(target, size, (void *)start)) {
		record->flags |= TG_EXEC_ARGUMENTS_UNREADABLE;
		return;
	}
	if (record->flags & TG_EXEC_ARGUMENTS_TRUNCATED)
		target[TG_ARGUMENTS_MAX - 1] = 0;
	record->arguments_size = size;
	image->data_size += size;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(sched_process_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	struct tg_filters *wanted = tg_filters();
	struct tg_subject subject;
	struct tg_image image;
	__u32 size;

	if (!wanted || !tg_image_open(&image, TG_SCRATCH_EXEC))
		return 0;
	image.record->header.type = TG_RECORD_EXEC;
	tg_image_fill(&image, task);
	tg_image_subject(&subject, wanted, &image, task);
	exec_cwd(&image, task);
	exec_raw_path(&image, bprm);
	if (tg_passes(wanted, TG_RECORD_EXEC, &subject))
		exec_arguments(&image, task);
	else
		image.record->header.flags |= TG_FLAG_HIDDEN;

	size = sizeof(struct tg_exec) + image.data_size;
	barrier_var(size);
	if (size > sizeof(struct tg_exec_scratch))
		return 0;
	image.record->header.size = size;
	tg_output(&image.record->header, size);
	return 0;
}
