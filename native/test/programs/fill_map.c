// SPDX-License-Identifier: Apache-2.0
// Fills a pinned hash map; for tests. fill_map <path>
#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static long bpf(int command, union bpf_attr *attributes)
{
	return syscall(SYS_bpf, command, attributes, sizeof(*attributes));
}

int main(int count, char **arguments)
{
	struct bpf_map_info info = {};
	union bpf_attr open = { .pathname = (uintptr_t)(count > 1 ? arguments[1] : "") };
	int map = bpf(BPF_OBJ_GET, &open);
	union bpf_attr ask = { .info = { .bpf_fd = map, .info_len = sizeof(info), .info = (uintptr_t)&info } };
	uint64_t key = 0;
	void *value;

	if (map < 0 || bpf(BPF_OBJ_GET_INFO_BY_FD, &ask) || info.key_size != sizeof(key) || !(value = calloc(1, info.value_size))) {
		perror("fill_map");
		return 1;
	}
	for (;; key++) {
		union bpf_attr entry = { .map_fd = map, .key = (uintptr_t)&key, .value = (uintptr_t)value, .flags = BPF_ANY };

		if (!bpf(BPF_MAP_UPDATE_ELEM, &entry))
			continue;
		if (errno == E2BIG)
			return 0;
		perror("fill_map");
		return 1;
	}
}
