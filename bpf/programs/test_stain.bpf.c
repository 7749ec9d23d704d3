// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Test only, an object of its own: goes once round both rings, fills them with TG_STAIN and gives everything back, so that a field which a hook
 * leaves unset shows. User space gives this object the rings of a loaded tidegate.bpf.o, and reads on between the runs.
 * From 5.14 (programs of type syscall). Enforces nothing.
 */
#include "ring.h"

#define TG_STAIN 0xa5
#define STAIN_BYTES 504 /* and the ring's own 8 before it: a ring is full after a whole number of them */
#define STAINS_MAX 2048 /* enough for rings of 1 MiB */

static __always_inline void stain(void *ring)
{
	for (__u32 count = 0; count < STAINS_MAX; count++) {
		__u64 *record = bpf_ringbuf_reserve(ring, STAIN_BYTES, 0);

		if (!record)
			return;
		__builtin_memset(record, TG_STAIN, STAIN_BYTES);
		bpf_ringbuf_discard(record, 0);
	}
}

SEC("syscall")
int test_stain(void *unused)
{
	stain(&lifecycle_ring);
	stain(&data_ring);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
