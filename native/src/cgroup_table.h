// SPDX-License-Identifier: Apache-2.0
// Cgroup ids, and the containers they belong to. Ids are of the default hierarchy (v2), or with TG_CGROUP_V1 of the v1 hierarchy that has the
// pids controller; a container may have a cgroup in both, at the same path.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "cgroup_path.h"
#include "records.h"
#include "runtime_bundles.h"

namespace tidegate {

struct Container {
  ContainerIdentity identity;
  std::optional<ContainerDescription> description;  // what the runtime says of it; nothing: not found, so far
  uint32_t description_tries = 0;
  uint64_t cgroup_id = 0;  // of the container's own cgroup; 0 while only nested ones were seen
  uint64_t cgroup_v1_id = 0;
  std::optional<ProcessKey> first_process;  // the first that loaded an image in it
  uint64_t batch_stamp = 0;  // the batch whose table holds it, as batch_id
  uint32_t batch_id = 0;
};

class CgroupTable {
 public:
  static constexpr size_t CGROUPS_MAX = 16'384;
  // Records of a container's processes still come when its cgroup is gone.
  static constexpr uint64_t REMOVED_KEEP_NS = 60'000'000'000;

  // A container's bundle is written before its cgroup is made. These are for a runtime that does it otherwise, or a node without any.
  static constexpr uint32_t DESCRIPTION_TRIES_MAX = 8;

  // root: where the cgroup2 hierarchy is mounted. v1_root: where the v1 hierarchy with the pids controller is; empty: nowhere. bundles outlive
  // this.
  CgroupTable(std::string root, std::string v1_root, const RuntimeBundles& bundles);
  ~CgroupTable();
  CgroupTable(const CgroupTable&) = delete;
  CgroupTable& operator=(const CgroupTable&) = delete;

  // Reads all cgroups there are.
  void walk();
  void made(uint64_t id, std::string_view path);
  void removed(uint64_t id, uint64_t now_ns);
  void expire(uint64_t now_ns);

  // The container of a cgroup; null on the host, and when nothing is known of it. An id not seen yet is looked up in the file system.
  std::shared_ptr<Container> container(uint64_t id);

  // Asks the runtime's files about a container, unless they told or were asked often enough.
  void describe(Container& container);

  // Id of the cgroup that is at this path now, in v1 if that is no root; 0: none.
  uint64_t id(const std::string& path, const std::string& v1_path) const;

  size_t size() const { return cgroups_.size(); }
  uint64_t evicted() const { return evicted_; }
  uint64_t not_described() const { return not_described_; }

 private:
  struct Removed {
    uint64_t id;
    uint64_t at_ns;
  };

  // Where a hierarchy is mounted.
  struct Hierarchy {
    std::string root;
    int fd;
    uint64_t version;  // 0 or TG_CGROUP_V1: bit of its ids
  };

  void walk_directory(int directory_fd, std::string& path, uint64_t version);
  std::optional<std::string> path_by_handle(uint64_t id) const;
  std::shared_ptr<Container>& add(uint64_t id, std::string_view path);
  std::shared_ptr<Container> container_at(ContainerIdentity identity, uint64_t id, bool own);

  std::array<Hierarchy, 2> hierarchies_;
  const RuntimeBundles& bundles_;
  std::unordered_map<uint64_t, std::shared_ptr<Container>> cgroups_;  // null: on the host
  std::unordered_map<std::string, std::weak_ptr<Container>> containers_;  // by path of their own cgroup
  std::deque<Removed> removed_;
  std::deque<uint64_t> order_;  // of insertion, for eviction
  uint64_t evicted_ = 0;
  uint64_t not_described_ = 0;  // containers given up on
};

}  // namespace tidegate
