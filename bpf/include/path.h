/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Paths from the kernel's own objects, as d_path() makes them: from the name up through directories and across mounts to the root of the
 * mount tree (of the container, where there is one). A process's own chroot does not shorten them: a path cannot be disguised that way.
 */
#ifndef TIDEGATE_PATH_H
#define TIDEGATE_PATH_H

#include "maps.h"

#define TG_PATH_DEPTH_MAX 128 /* names and mounts walked: a bound for the verifier */
#define TG_NAME_MASK 255 /* NAME_MAX */

/* The offset lives in the scratch and not in a variable: what comes from a map is any number to the verifier, so that all turns of the loop
 * look alike to it and one check serves them all (on 6.18 with clang 14 it gave up at a million instructions before). */
static __always_inline bool tg_prepend_name(struct tg_path_scratch *scratch, struct dentry *dentry)
{
	const unsigned char *name = BPF_CORE_READ(dentry, d_name.name);
	__u32 length = BPF_CORE_READ(dentry, d_name.len) & TG_NAME_MASK;
	__u32 offset = scratch->offset;

	if (length + 1 > offset)
		return false;
	offset = (offset - length - 1) & (TG_PATH_MAX - 1);
	scratch->bytes[offset] = '/';
	bpf_probe_read_kernel(&scratch->bytes[offset + 1], length, name);
	scratch->offset = offset;
	return true;
}

/* Writes the path of dentry on mnt into the scratch. */
static __noinline int tg_walk_path(struct tg_path_scratch *scratch, struct vfsmount *mnt, struct dentry *dentry)
{
	struct mount *mount = (void *)mnt - bpf_core_field_offset(struct mount, mnt);
	struct dentry *mount_root = BPF_CORE_READ(mnt, mnt_root);

	scratch->offset = TG_PATH_MAX;
	scratch->truncated = 1;
	for (int depth = 0; depth < TG_PATH_DEPTH_MAX; depth++) {
		struct dentry *parent;

		if (dentry == mount_root) {
			struct mount *parent_mount = BPF_CORE_READ(mount, mnt_parent);

			if (parent_mount == mount) {
				scratch->truncated = 0;
				break;
			}
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			mount = parent_mount;
			mount_root = BPF_CORE_READ(mount, mnt.mnt_root);
			continue;
		}
		if (!tg_prepend_name(scratch, dentry))
			break;
		parent = BPF_CORE_READ(dentry, d_parent);
		if (parent == dentry) { /* a file without a directory: memfd:name */
			scratch->truncated = 0;
			break;
		}
		dentry = parent;
	}
	if (scratch->offset == TG_PATH_MAX) { /* the root itself */
		scratch->offset = TG_PATH_MAX - 1;
		scratch->bytes[TG_PATH_MAX - 1] = '/';
	}
	return 0;
}

/* Copies the path walked last to target, which has TG_PATH_MAX bytes. Returns the bytes copied. */
static __always_inline __u32 tg_copy_path(char *target, struct tg_path_scratch *scratch)
{
	__u32 offset = scratch->offset & (TG_PATH_MAX - 1);
	__u32 size = TG_PATH_MAX - offset;

	bpf_probe_read_kernel(target, size, &scratch->bytes[offset]);
	return size;
}

#endif
