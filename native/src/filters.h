// SPDX-License-Identifier: Apache-2.0
// What the kernel lets through, as the maps of bpf/include/maps.h hold it.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "loader.h"

namespace tidegate {

// Sets: key to enum tg_filter_member bits.
struct Filters {
  tg_filters words{};
  std::map<uint32_t, uint32_t> uids;
  std::map<uint64_t, uint32_t> cgroups;
  std::map<uint32_t, uint32_t> namespaces;
  std::map<std::string, uint32_t> binaries;  // prefixes, at most TG_BINARY_PREFIX_MAX bytes
};

// Throws LoadError. Events in flight see the old filters or the new, and in between perhaps both sets' members.
void apply_filters(const Loader& loader, const Filters& filters);

}  // namespace tidegate
