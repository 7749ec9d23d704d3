// SPDX-License-Identifier: Apache-2.0
// What /proc tells of one running process.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace tidegate {

struct ProcProcess {
  std::string binary, cwd;
  std::string arguments;  // argv, each string ended by NUL, at most TG_ARGUMENTS_MAX bytes
  std::string cgroup_v1_path;  // in the v1 hierarchy with the pids controller
  std::string cgroup_path;  // in the cgroup2 hierarchy, as the reader of /proc sees it; empty: not under its root
  uint32_t parent_pid = 0;
  uint32_t uid = 0;  // real
  bool arguments_truncated = false;
  bool kernel_thread = false;
};

// Nothing when the process is gone or the pid is another's by now: its start time must be start_ktime_ns, to the clock tick /proc knows.
std::optional<ProcProcess> read_process(const std::string& proc_root, uint32_t pid, uint64_t start_ktime_ns);

// The kernel's id of this boot, 36 characters; empty when it cannot be read.
std::string read_boot_id(const std::string& proc_root);

}  // namespace tidegate
