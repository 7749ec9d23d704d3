// SPDX-License-Identifier: Apache-2.0
#include "filters.h"

#include <bpf/bpf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

namespace tidegate {
namespace {

template <typename Key>
const Key& map_key(const Key& key) {
  return key;
}

tg_binary_prefix map_key(const std::string& prefix) {
  tg_binary_prefix key{};
  const size_t size = std::min<size_t>(prefix.size(), TG_BINARY_PREFIX_MAX);
  key.bits = static_cast<uint32_t>(size * 8);
  memcpy(key.path, prefix.data(), size);
  return key;
}

uint32_t set_key(const uint32_t& key) { return key; }
uint64_t set_key(const uint64_t& key) { return key; }
std::string set_key(const tg_binary_prefix& key) { return {key.path, std::min<size_t>(key.bits / 8, TG_BINARY_PREFIX_MAX)}; }

template <typename Key>
void add_members(const Loader& loader, const char* map, const std::map<Key, uint32_t>& members) {
  const int fd = loader.map(map);
  for (const auto& [member, lists] : members) {
    const auto key = map_key(member);
    if (bpf_map_update_elem(fd, &key, &lists, BPF_ANY) != 0) {
      throw LoadError(std::string("cannot set ") + map + " (" + std::to_string(members.size()) + " entries): " + strerror(errno));
    }
  }
}

template <typename Key>
void remove_others(const Loader& loader, const char* map, const std::map<Key, uint32_t>& members) {
  using MapKey = std::decay_t<decltype(map_key(std::declval<const Key&>()))>;
  const int fd = loader.map(map);
  std::vector<MapKey> stale;
  MapKey key, next;
  for (const MapKey* previous = nullptr; bpf_map_get_next_key(fd, previous, &next) == 0; previous = &key) {
    key = next;
    if (!members.contains(set_key(key))) stale.push_back(key);
  }
  for (const MapKey& each : stale) bpf_map_delete_elem(fd, &each);
}

}  // namespace

void apply_filters(const Loader& loader, const Filters& filters) {
  add_members(loader, "filter_uids", filters.uids);
  add_members(loader, "filter_cgroups", filters.cgroups);
  add_members(loader, "filter_namespaces", filters.namespaces);
  add_members(loader, "filter_binaries", filters.binaries);
  const uint32_t key = 0;
  if (bpf_map_update_elem(loader.map("filters"), &key, &filters.words, BPF_ANY) != 0) {
    throw LoadError(std::string("cannot set the filters: ") + strerror(errno));
  }
  remove_others(loader, "filter_uids", filters.uids);
  remove_others(loader, "filter_cgroups", filters.cgroups);
  remove_others(loader, "filter_namespaces", filters.namespaces);
  remove_others(loader, "filter_binaries", filters.binaries);
}

}  // namespace tidegate
