// SPDX-License-Identifier: Apache-2.0
#include "proc_files.h"

#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "records.h"

namespace tidegate {
namespace {

constexpr size_t SMALL_FILE_MAX_BYTES = 4096;
constexpr uint64_t KERNEL_THREAD_FLAG = 0x00200000;  // PF_KTHREAD of include/linux/sched.h
// Fields of /proc/<pid>/stat behind the name, counted from 0.
constexpr size_t STAT_PARENT = 1;
constexpr size_t STAT_FLAGS = 6;
constexpr size_t STAT_START = 19;

std::string read_file(const std::string& path, size_t max_bytes) {
  std::string content;
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return content;
  content.resize(max_bytes);
  size_t size = 0;
  while (size < max_bytes) {
    const ssize_t count = read(file, content.data() + size, max_bytes - size);
    if (count <= 0) break;
    size += static_cast<size_t>(count);
  }
  close(file);
  content.resize(size);
  return content;
}

std::string read_link(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t length = readlink(path.c_str(), target, sizeof(target));
  return length < 0 ? std::string() : std::string(target, static_cast<size_t>(length));
}

struct Stat {
  uint64_t parent = 0, flags = 0, start_ticks = 0;
};

std::optional<Stat> read_stat(const std::string& folder) {
  const std::string text = read_file(folder + "stat", SMALL_FILE_MAX_BYTES);
  // The name, in brackets, may itself hold brackets and spaces.
  const size_t name_end = text.rfind(") ");
  if (name_end == std::string::npos) return std::nullopt;
  Stat stat;
  const char* at = text.c_str() + name_end + 2;
  for (size_t field = 0; field <= STAT_START; field++) {
    if (*at == '\0') return std::nullopt;
    if (field == STAT_PARENT) stat.parent = strtoull(at, nullptr, 10);
    if (field == STAT_FLAGS) stat.flags = strtoull(at, nullptr, 10);
    if (field == STAT_START) stat.start_ticks = strtoull(at, nullptr, 10);
    while (*at != '\0' && *at != ' ') at++;
    while (*at == ' ') at++;
  }
  return stat;
}

// The rest of the line that starts with `name`.
std::string line_of(const std::string& text, const std::string& name) {
  const size_t start = ("\n" + text).find("\n" + name);
  if (start == std::string::npos) return {};
  const size_t from = start + name.size();
  return text.substr(from, text.find('\n', from) - from);
}

// Lines of /proc/<pid>/cgroup: <hierarchy>:<controllers with commas>:<path>.
std::string pids_cgroup_path(std::string_view text) {
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    const size_t first = line.find(':');
    const size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    const std::string controllers = "," + std::string(line.substr(first + 1, second - first - 1)) + ",";
    if (controllers.find(",pids,") != std::string::npos) return std::string(line.substr(second + 1));
  }
  return {};
}

}  // namespace

std::optional<ProcProcess> read_process(const std::string& proc_root, uint32_t pid, uint64_t start_ktime_ns) {
  const std::string folder = proc_root + "/" + std::to_string(pid) + "/";
  const uint64_t tick_ns = 1'000'000'000 / static_cast<uint64_t>(sysconf(_SC_CLK_TCK));
  const uint64_t start_ticks = start_ktime_ns / tick_ns;

  ProcProcess process;
  process.binary = read_link(folder + "exe");
  constexpr std::string_view deleted = " (deleted)";
  if (std::string_view(process.binary).ends_with(deleted)) process.binary.resize(process.binary.size() - deleted.size());
  process.cwd = read_link(folder + "cwd");
  process.arguments = read_file(folder + "cmdline", TG_ARGUMENTS_MAX + 1);
  process.arguments_truncated = process.arguments.size() > TG_ARGUMENTS_MAX;
  if (process.arguments_truncated) process.arguments.resize(TG_ARGUMENTS_MAX);

  process.uid = static_cast<uint32_t>(strtoul(line_of(read_file(folder + "status", SMALL_FILE_MAX_BYTES), "Uid:").c_str(), nullptr, 10));
  const std::string cgroups = read_file(folder + "cgroup", SMALL_FILE_MAX_BYTES);
  process.cgroup_path = line_of(cgroups, "0::");
  process.cgroup_v1_path = pids_cgroup_path(cgroups);
  // Seen from a cgroup namespace, what lies outside it starts with "..".
  for (std::string* path : {&process.cgroup_path, &process.cgroup_v1_path}) {
    if (path->starts_with("/..")) path->clear();
  }

  // Last: if the pid is still the same process's now, all of the above was.
  const std::optional<Stat> stat = read_stat(folder);
  if (!stat || stat->start_ticks != start_ticks) return std::nullopt;
  process.parent_pid = static_cast<uint32_t>(stat->parent);
  process.kernel_thread = stat->flags & KERNEL_THREAD_FLAG;
  return process;
}

std::string read_boot_id(const std::string& proc_root) {
  constexpr size_t BOOT_ID_LENGTH = 36;
  return read_file(proc_root + "/sys/kernel/random/boot_id", BOOT_ID_LENGTH);
}

}  // namespace tidegate
