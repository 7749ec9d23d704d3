// SPDX-License-Identifier: Apache-2.0
// The records BPF programs write, as C++ sees them.
#pragma once

#include <linux/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#define _Static_assert static_assert
#include "../../bpf/include/tidegate_event.h"
#undef _Static_assert

namespace tidegate {

using ProcessKey = tg_process_key;

// Images of one process are the same process.
inline bool same_process(const ProcessKey& a, const ProcessKey& b) { return a.pid == b.pid && a.start_ktime_ns == b.start_ktime_ns; }

struct ProcessKeyEqual {
  bool operator()(const ProcessKey& a, const ProcessKey& b) const { return same_process(a, b) && a.exec_generation == b.exec_generation; }
};

struct ProcessKeyHash {
  size_t operator()(const ProcessKey& key) const {
    uint64_t hash = key.start_ktime_ns ^ (static_cast<uint64_t>(key.pid) << 40) ^ (key.exec_generation << 20);
    hash *= 0x9E3779B97F4A7C15;  // 2^64 / golden ratio
    return hash ^ (hash >> 32);
  }
};

// The variable part of an exec or task record.
struct ExecStrings {
  std::string_view binary, cwd, raw_path, arguments;
};

// False when the sizes do not fit into the record.
inline bool exec_strings(const tg_exec& exec, ExecStrings& out) {
  const size_t room = exec.header.size - sizeof(tg_exec);
  if (size_t{exec.binary_size} + exec.cwd_size + exec.raw_path_size + exec.arguments_size > room) return false;
  const char* at = exec.data;
  const auto take = [&](size_t size) {
    const std::string_view text(at, size);
    at += size;
    return text;
  };
  out.binary = take(exec.binary_size);
  out.cwd = take(exec.cwd_size);
  out.raw_path = take(exec.raw_path_size);
  out.arguments = take(exec.arguments_size);
  return true;
}

}  // namespace tidegate
