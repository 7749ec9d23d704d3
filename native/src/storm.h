// SPDX-License-Identifier: Apache-2.0
// For benchmarks: has bench_storm.bpf.o push synthetic records through the loaded maps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "loader.h"

namespace tidegate {

struct StormOptions {
  std::string object_file;
  uint64_t events = 0;
  ProcessKey process{};
  std::vector<uint64_t> cgroup_ids;  // gone through in turn
};

// Returns when all were pushed, or lost. Throws LoadError.
void run_storm(const Loader& loader, const StormOptions& options);

}  // namespace tidegate
