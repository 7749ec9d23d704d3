/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Writing records to the two rings. Whatever does not fit is counted by kind: nothing is lost in silence. */
#ifndef TIDEGATE_RING_H
#define TIDEGATE_RING_H

#include "maps.h"

/* Programs in interrupt context add to the same CPU's counters as those they interrupt: hence atomic. */
#define tg_count(counter) ((void)__sync_fetch_and_add(&(counter), 1))

static __always_inline struct tg_counters *tg_counters(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&counters, &zero);
}

static __always_inline void tg_count_submitted(enum tg_ring ring)
{
	struct tg_counters *all = tg_counters();

	if (all)
		tg_count(all->submitted[ring]);
}

static __always_inline void tg_count_lost(__u32 type, __u32 flags)
{
	struct tg_counters *all = tg_counters();

	if (!all)
		return;
	if (type == TG_RECORD_CGROUP_MKDIR || type == TG_RECORD_CGROUP_RMDIR)
		tg_count(all->lost_cgroup);
	else if (type >= TG_KIND_MAX || (flags & TG_FLAG_HIDDEN))
		tg_count(all->lost_fork);
	else
		tg_count(all->lost_by_kind[type]);
}

static __always_inline void tg_count_filtered(__u32 type)
{
	struct tg_counters *all = tg_counters();

	if (all && type < TG_KIND_MAX)
		tg_count(all->filtered_by_kind[type]);
}

static __always_inline void tg_count_untracked_accept(void)
{
	struct tg_counters *all = tg_counters();

	if (all)
		tg_count(all->untracked_accepts);
}

/*
 * Room for a record of fixed size, or NULL after counting the loss; then tg_submit. What the ring hands out holds bytes of earlier records, so
 * it is cleared here, once for every program: a field that a branch does not set is 0. size: a constant.
 */
static __always_inline void *tg_reserve(enum tg_ring ring, __u32 size, __u32 type, __u32 flags)
{
	struct tg_header *header;

	if (ring == TG_RING_LIFECYCLE)
		header = bpf_ringbuf_reserve(&lifecycle_ring, size, 0);
	else
		header = bpf_ringbuf_reserve(&data_ring, size, 0);
	if (!header) {
		tg_count_lost(type, flags);
		return NULL;
	}
	__builtin_memset(header, 0, size);
	header->size = size;
	header->type = type;
	header->flags = flags;
	return header;
}

static __always_inline void tg_submit(enum tg_ring ring, void *record)
{
	bpf_ringbuf_submit(record, 0);
	tg_count_submitted(ring);
}

/* A record of a size known only at run time, copied to the lifecycle ring. */
static __always_inline void tg_output(struct tg_header *record, __u32 size)
{
	if (bpf_ringbuf_output(&lifecycle_ring, record, size, 0))
		tg_count_lost(record->type, record->flags);
	else
		tg_count_submitted(TG_RING_LIFECYCLE);
}

#endif
