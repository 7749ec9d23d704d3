// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Hook: tp_btf/sys_exit, attached only where fexit/inet_csk_accept cannot be: it costs every system call its slow way back. Who accepts a TCP
 * connection through accept or accept4. Connections accepted through io_uring or by 32-bit programs are told when they end.
 * From 5.12. Enforces nothing.
 */
#include "socket.h"

#define X86_ACCEPT 43
#define X86_ACCEPT4 288
#define ARM64_ACCEPT 202
#define ARM64_ACCEPT4 242

static __always_inline bool is_accept(void *regs)
{
	if (bpf_core_field_exists(((struct pt_regs___x86 *)0)->orig_ax)) {
		unsigned long call = ((struct pt_regs___x86 *)regs)->orig_ax;

		return call == X86_ACCEPT || call == X86_ACCEPT4;
	}
	if (bpf_core_field_exists(((struct pt_regs___arm64 *)0)->syscallno)) {
		int call = ((struct pt_regs___arm64 *)regs)->syscallno;

		return call == ARM64_ACCEPT || call == ARM64_ACCEPT4;
	}
	return false;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit, void *regs, long fd)
{
	struct task_struct *task;
	struct fdtable *table;
	struct socket *socket;
	struct file **files, *file = NULL;
	struct sock *sk;
	unsigned short family;

	if (!is_accept(regs) || fd < 0)
		return 0;
	task = bpf_get_current_task_btf();
	table = BPF_CORE_READ(task, files, fdt);
	if ((unsigned long)fd >= BPF_CORE_READ(table, max_fds))
		return 0;
	files = BPF_CORE_READ(table, fd);
	bpf_probe_read_kernel(&file, sizeof(file), files + fd);
	socket = BPF_CORE_READ(file, private_data);
	sk = BPF_CORE_READ(socket, sk);
	if (!sk)
		return 0;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family == AF_INET || family == AF_INET6)
		tg_accept(sk);
	return 0;
}
