// SPDX-License-Identifier: Apache-2.0
// For benchmarks: has bench_storm.bpf.o push synthetic records through the maps that a sensor, in whichever process, has pinned.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "records.h"

namespace tidegate {

struct StormOptions {
  std::string object_file;
  std::string pin_directory;  // the sensor's
  uint64_t events = 0;
  ProcessKey process{};
  std::vector<uint64_t> cgroup_ids;  // gone through in turn
};

// Returns when all were pushed, or lost. Throws LoadError.
void run_storm(const StormOptions& options);

}  // namespace tidegate
