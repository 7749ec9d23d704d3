/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* struct tg_exec: what exec and the task iterator tell alike of the program a process runs. */
#ifndef TIDEGATE_PROCESS_IMAGE_H
#define TIDEGATE_PROCESS_IMAGE_H

#include "filter.h"
#include "path.h"

#define TG_LOGIN_UID_UNSET 0xffffffff

/* An exec record on its way: data_size bytes of data are written. */
struct tg_image {
	struct tg_exec_scratch *scratch;
	struct tg_path_scratch *paths;
	struct tg_exec *record; /* at the beginning of scratch */
	__u32 data_size;
};

static __always_inline bool tg_image_open(struct tg_image *image, __u32 which)
{
	image->scratch = bpf_map_lookup_elem(&exec_scratch, &which);
	image->paths = bpf_map_lookup_elem(&path_scratch, &which);
	if (!image->scratch || !image->paths)
		return false;
	image->record = (struct tg_exec *)image->scratch->bytes;
	image->data_size = 0;
	__builtin_memset(image->record, 0, sizeof(struct tg_exec));
	return true;
}

/* Where the next bytes go; room for TG_PATH_MAX after up to two paths, for TG_ARGUMENTS_MAX after three. */
static __always_inline char *tg_image_tail(struct tg_image *image)
{
	__u32 offset = image->data_size;

	barrier_var(offset); /* clang knows the bound and would drop the check, which the verifier (up to 6.x) needs */
	if (offset > 3 * TG_PATH_MAX)
		offset = 3 * TG_PATH_MAX;
	return image->scratch->bytes + sizeof(struct tg_exec) + offset;
}

static __always_inline void tg_image_credentials(struct tg_credentials *credentials, struct task_struct *task)
{
	const struct cred *cred = task->real_cred;

	credentials->uid = cred->uid.val;
	credentials->gid = cred->gid.val;
	credentials->euid = cred->euid.val;
	credentials->egid = cred->egid.val;
	credentials->suid = cred->suid.val;
	credentials->sgid = cred->sgid.val;
	credentials->fsuid = cred->fsuid.val;
	credentials->fsgid = cred->fsgid.val;
	credentials->securebits = cred->securebits;
	if (bpf_core_field_exists(task->loginuid))
		credentials->login_uid = task->loginuid.val;
	else
		credentials->login_uid = TG_LOGIN_UID_UNSET;
	bpf_core_read(&credentials->cap_permitted, sizeof(__u64), &cred->cap_permitted);
	bpf_core_read(&credentials->cap_effective, sizeof(__u64), &cred->cap_effective);
	bpf_core_read(&credentials->cap_inheritable, sizeof(__u64), &cred->cap_inheritable);
	bpf_core_read(&credentials->cap_bounding, sizeof(__u64), &cred->cap_bset);
	bpf_core_read(&credentials->cap_ambient, sizeof(__u64), &cred->cap_ambient);
}

/* A terminal's name as ps shows it: tty1, pts/0. */
static __always_inline void tg_image_tty(struct tg_exec *record, struct task_struct *task)
{
	struct tty_struct *tty = task->signal->tty;
	char *name = record->tty;

	if (!tty)
		return;
	bpf_core_read_str(name, TG_TTY_MAX, &tty->name);
	if (name[0] == 'p' && name[1] == 't' && name[2] == 's') {
		bpf_core_read_str(name + 1, TG_TTY_MAX - 1, &tty->name);
		name[0] = 'p', name[1] = 't', name[2] = 's', name[3] = '/';
	}
}

/*
 * ovl_inode holds the upper layer's dentry right behind the inode that the rest of the kernel sees; overlayfs is often a module whose types
 * are not in the kernel's own BTF, so the position comes from the size of struct inode.
 */
static __always_inline bool tg_in_upper_layer(struct inode *inode)
{
	struct dentry *upper = NULL;

	if (inode->i_sb->s_magic != OVERLAYFS_SUPER_MAGIC)
		return false;
	bpf_probe_read_kernel(&upper, sizeof(upper), (void *)inode + bpf_core_type_size(struct inode));
	return upper && BPF_CORE_READ(upper, d_inode);
}

static __always_inline bool tg_is_memfd(struct dentry *dentry)
{
	char name[6] = {};

	if (dentry->d_parent != dentry)
		return false;
	bpf_probe_read_kernel(name, sizeof(name), dentry->d_name.name);
	return name[0] == 'm' && name[1] == 'e' && name[2] == 'm' && name[3] == 'f' && name[4] == 'd' && name[5] == ':';
}

/* The file the process runs: facts of its inode, and its path as the first of the data. */
static __always_inline void tg_image_binary(struct tg_image *image, struct task_struct *task)
{
	struct tg_exec *record = image->record;
	struct mm_struct *mm = task->mm;
	struct dentry *dentry;
	struct inode *inode;
	struct file *file;

	if (!mm)
		return;
	file = mm->exe_file;
	if (!file)
		return;
	inode = file->f_inode;
	dentry = file->f_path.dentry;
	if (!inode || !dentry)
		return;
	record->inode = inode->i_ino;
	record->device = inode->i_sb->s_dev;
	record->links = inode->i_nlink;
	if (inode->i_mode & S_ISUID)
		record->flags |= TG_EXEC_SETUID;
	if (inode->i_mode & S_ISGID)
		record->flags |= TG_EXEC_SETGID;
	if (tg_in_upper_layer(inode))
		record->flags |= TG_EXEC_UPPER_LAYER;
	if (tg_is_memfd(dentry))
		record->flags |= TG_EXEC_MEMFD;
	else if (!dentry->d_hash.pprev)
		record->flags |= TG_EXEC_DELETED;

	tg_walk_path(image->paths, file->f_path.mnt, dentry);
	if (image->paths->truncated)
		record->flags |= TG_EXEC_BINARY_TRUNCATED;
	record->binary_size = tg_copy_path(tg_image_tail(image), image->paths);
	image->data_size += record->binary_size;
}

/* All but the data, cwd and arguments, and the binary with its path. */
static __always_inline void tg_image_fill(struct tg_image *image, struct task_struct *task)
{
	struct tg_exec *record = image->record;
	struct upid *number = tg_innermost_pid(task);

	tg_process_header(&record->header, task);
	tg_process_key(&record->parent, task->real_parent);
	tg_image_credentials(&record->credentials, task);
	tg_process_namespaces(&record->namespaces, task);
	if (number)
		record->namespace_pid = BPF_CORE_READ(number, nr);
	tg_image_tty(record, task);
	bpf_core_read_str(record->comm, sizeof(record->comm), &task->comm);
	tg_image_binary(image, task);
}

/* Looks the binary up in the filters and keeps the answer with the process. Before the data behind the binary's path is written. */
static __always_inline void tg_image_subject(struct tg_subject *subject, const struct tg_filters *wanted, struct tg_image *image,
					     struct task_struct *leader)
{
	struct tg_exec *record = image->record;

	subject->cgroup_id = record->header.cgroup_id;
	subject->uid = record->header.uid;
	subject->namespace_member = 0;
	subject->binary_member = 0;
	if (tg_consults(wanted, TG_FILTER_NAMESPACE))
		subject->namespace_member = tg_namespace_member(&record->namespaces);
	if (tg_consults(wanted, TG_FILTER_BINARY)) {
		/* The path scratch is free again: the path stands in the record. */
		struct tg_binary_prefix *key = (struct tg_binary_prefix *)image->paths->bytes;
		__u32 size = record->binary_size;
		__u32 *member;

		if (size > TG_BINARY_PREFIX_MAX)
			size = TG_BINARY_PREFIX_MAX;
		key->bits = size * 8;
		bpf_probe_read_kernel(key->path, TG_BINARY_PREFIX_MAX, record->data);
		member = bpf_map_lookup_elem(&filter_binaries, key);
		subject->binary_member = member ? *member : 0;
		tg_set_verdict(leader, subject->binary_member);
	}
}

#endif
