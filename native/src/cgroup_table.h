// SPDX-License-Identifier: Apache-2.0
// Cgroup ids, and the containers they belong to. Ids are of the default hierarchy (v2), or with TG_CGROUP_V1 of the v1 hierarchy that has the
// pids controller; a container may have a cgroup in both, at the same path.
//
// A cgroup's name is whatever its maker chose, so a name alone makes no container:
// - The outermost container wins: what lies in a container's cgroup is that container's, whatever it is called.
// - A runtime's own record of a container (RuntimeRecords, written by root) decides where there is one: it must be of this very cgroup, by the path
//   the runtime was asked for, or because the container's first process is in it. Then the id may have any form.
// - Without a record a name of a form that only runtimes use is believed when root made the cgroup, and the container is marked unconfirmed. What others
//   made is never a pod's, and a container only with a runtime's prefix and 64 digits: a user's own, without root.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "cgroup_path.h"
#include "records.h"
#include "runtime_records.h"

namespace tidegate {

struct Container {
  std::string container_id;  // empty: a pod's cgroup outside its containers
  std::string pod_uid;  // empty: not Kubernetes
  std::string runtime;  // empty: not known
  std::string path;  // of the container's own cgroup
  bool by_root = false;  // made by root
  std::optional<ContainerRecord> record;  // the runtime's; nothing: not found, so far
  uint32_t record_tries = 0;
  uint64_t cgroup_id = 0;  // of the container's own cgroup; 0: it has none in this hierarchy
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

  // containerd's record is written before the cgroup is made, others' later, or never.
  static constexpr uint32_t RECORD_TRIES_MAX = 8;

  // Cgroup id of the process that has this pid, as TG_CGROUP_V1 says; 0: not known.
  using CgroupOfPid = std::function<uint64_t(uint32_t pid)>;

  // root: where the cgroup2 hierarchy is mounted, or the node's part of it. v1_root: where the v1 hierarchy with the pids controller is; empty:
  // nowhere. records outlive this.
  CgroupTable(std::string root, std::string v1_root, const RuntimeRecords& records, CgroupOfPid cgroup_of_pid);
  ~CgroupTable();
  CgroupTable(const CgroupTable&) = delete;
  CgroupTable& operator=(const CgroupTable&) = delete;

  // Reads all cgroups there are.
  void walk();
  // path: from the hierarchy's root, as the kernel has it. uid: who made it, in the initial user namespace.
  void made(uint64_t id, std::string_view path, uint32_t uid);
  void removed(uint64_t id, uint64_t now_ns);
  void expire(uint64_t now_ns);

  // The container of a cgroup; null on the host, and when nothing is known of it. An id not seen yet is looked up in the file system.
  std::shared_ptr<Container> container(uint64_t id);

  // When a process loads an image in the cgroup: whether the runtime has written down by now that it is a container's, unless asked often enough.
  void look_again(uint64_t id);
  // The same for a container whose record was not found.
  void describe(Container& container);
  // Runtimes keep records where nobody had looked: the tries begin anew.
  void records_learned();

  // Id of the cgroup that is at this path now, in v1 if that is no root; 0: none.
  uint64_t id(const std::string& path, const std::string& v1_path) const;

  size_t size() const { return cgroups_.size(); }
  uint64_t evicted() const { return evicted_; }
  uint64_t not_described() const { return not_described_; }
  // Containers there are that root made and that no record was found of, however often it was looked for; as of expire().
  size_t undescribed() const { return undescribed_; }

 private:
  struct Cgroup {
    std::string path;
    std::shared_ptr<Container> container;  // null: on the host
    bool by_root = false;
    uint32_t tries = 0;  // to find a record of it
  };

  struct Removed {
    uint64_t id;
    uint64_t at_ns;
  };

  // Where a hierarchy is mounted.
  struct Hierarchy {
    std::string root;
    int fd = -1;
    uint64_t version = 0;  // 0 or TG_CGROUP_V1: bit of its ids
    bool is_part = false;  // root is not the hierarchy's own root
    std::optional<std::string> outer;  // the kernel's path of `root`, once known
    std::unordered_map<std::string, uint64_t> ids;  // by path
  };

  enum class Evidence { NONE, SILENT, CONFIRMS, CONTRADICTS };

  Hierarchy& hierarchy_of(uint64_t id) { return hierarchies_[id & TG_CGROUP_V1 ? 1 : 0]; }
  const Hierarchy& hierarchy_of(uint64_t id) const { return hierarchies_[id & TG_CGROUP_V1 ? 1 : 0]; }
  void walk_directory(int directory_fd, std::string& path, bool by_root, uint64_t version);
  std::optional<std::string> inner_path(uint64_t id, std::string_view path);
  std::optional<std::string> path_by_handle(uint64_t id) const;
  bool is_made_by_root(const Hierarchy& hierarchy, const std::string& path) const;
  Cgroup& add(uint64_t id, std::string path, bool by_root);
  bool forget(uint64_t id);
  std::shared_ptr<Container> container_above(Hierarchy& hierarchy, std::string_view path, bool by_root);
  std::shared_ptr<Container> judge(uint64_t id, const std::string& path, bool by_root, const std::shared_ptr<Container>& above);
  Evidence evidence(const Container& container, const ContainerRecord& record) const;
  Evidence best_record(const std::string& container_id, const Container& container, std::optional<ContainerRecord>& best) const;
  static void take_record(Container& container, ContainerRecord record);
  std::shared_ptr<Container> keep(std::shared_ptr<Container> container, uint64_t id);

  std::array<Hierarchy, 2> hierarchies_;
  const RuntimeRecords& records_;
  const CgroupOfPid cgroup_of_pid_;
  std::unordered_map<uint64_t, Cgroup> cgroups_;
  std::unordered_map<std::string, std::weak_ptr<Container>> containers_;  // by path of their own cgroup
  std::deque<Removed> removed_;
  std::deque<uint64_t> order_;  // of insertion, for eviction
  uint64_t evicted_ = 0;
  uint64_t not_described_ = 0;  // containers given up on
  size_t undescribed_ = 0;
};

}  // namespace tidegate
