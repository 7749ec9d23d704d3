// SPDX-License-Identifier: Apache-2.0
#include "cgroup_table.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace tidegate {
namespace {

constexpr int FILEID_KERNFS = 0xfe;  // enum fid_type of linux/exportfs.h: the handle is the 64-bit id
constexpr ino_t ROOT_CGROUP_ID = 1;
constexpr size_t DEPTH_MAX = 64;

bool only_root_writes(const struct stat& status) { return status.st_uid == 0 && (status.st_mode & (S_IWGRP | S_IWOTH)) == 0; }

}  // namespace

CgroupTable::CgroupTable(std::string root, std::string v1_root, const RuntimeRecords& records, CgroupOfPid cgroup_of_pid)
    : records_(records), cgroup_of_pid_(std::move(cgroup_of_pid)) {
  hierarchies_[0].root = std::move(root);
  hierarchies_[1].root = std::move(v1_root);
  hierarchies_[1].version = TG_CGROUP_V1;
  for (Hierarchy& hierarchy : hierarchies_) {
    hierarchy.fd = open(hierarchy.root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat status;
    hierarchy.is_part = hierarchy.fd >= 0 && fstat(hierarchy.fd, &status) == 0 && status.st_ino != ROOT_CGROUP_ID;
  }
}

CgroupTable::~CgroupTable() {
  for (const Hierarchy& hierarchy : hierarchies_) {
    if (hierarchy.fd >= 0) close(hierarchy.fd);
  }
}

void CgroupTable::walk() {
  for (const Hierarchy& hierarchy : hierarchies_) {
    const int directory = hierarchy.fd < 0 ? -1 : openat(hierarchy.fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) continue;
    std::string path;
    walk_directory(directory, path, true, hierarchy.version);
  }
}

// Takes directory_fd over. The inode number of a cgroup's directory is its id.
void CgroupTable::walk_directory(int directory_fd, std::string& path, bool by_root, uint64_t version) {
  struct stat status {};
  if (fstat(directory_fd, &status) == 0 && !cgroups_.contains(status.st_ino | version)) add(status.st_ino | version, path.empty() ? "/" : path, by_root);
  DIR* const directory = fdopendir(directory_fd);
  if (directory == nullptr) {
    close(directory_fd);
    return;
  }
  const size_t depth = static_cast<size_t>(std::count(path.begin(), path.end(), '/'));
  while (const dirent* entry = depth < DEPTH_MAX ? readdir(directory) : nullptr) {
    if (entry->d_type != DT_DIR || strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    const int child = openat(directory_fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (child < 0) continue;
    const size_t length = path.size();
    path.append("/").append(entry->d_name);
    walk_directory(child, path, only_root_writes(status), version);
    path.resize(length);
  }
  closedir(directory);
}

void CgroupTable::made(uint64_t id, std::string_view path, uint32_t uid) {
  if (!cgroups_.contains(id)) add(id, inner_path(id, path).value_or(""), uid == 0);
}

void CgroupTable::removed(uint64_t id, uint64_t now_ns) {
  if (cgroups_.contains(id)) removed_.push_back({id, now_ns});
}

void CgroupTable::expire(uint64_t now_ns) {
  while (!removed_.empty() && removed_.front().at_ns + REMOVED_KEEP_NS <= now_ns) {
    forget(removed_.front().id);
    removed_.pop_front();
  }
  // Ids are never used again, so an id that left the table leaves here too, at the latest when it is the oldest.
  while (!order_.empty() && !cgroups_.contains(order_.front())) order_.pop_front();
  undescribed_ = 0;
  std::erase_if(containers_, [this](const auto& entry) {
    const std::shared_ptr<Container> container = entry.second.lock();
    if (container != nullptr) undescribed_ += container->by_root && !container->record && container->record_tries >= RECORD_TRIES_MAX;
    return container == nullptr;
  });
}

std::shared_ptr<Container> CgroupTable::container(uint64_t id) {
  const auto known = cgroups_.find(id);
  if (known != cgroups_.end()) return known->second.container;
  if (id == 0) return nullptr;
  // One that is not there is gone for good, ids are not used twice: nothing will be known of it, and it is not asked for again.
  std::string path = path_by_handle(id).value_or("");
  const bool by_root = is_made_by_root(hierarchy_of(id), path);
  return add(id, std::move(path), by_root).container;
}

uint64_t CgroupTable::id(const std::string& path, const std::string& v1_path) const {
  const bool in_v1 = path.size() <= 1 && v1_path.size() > 1;
  const Hierarchy& hierarchy = hierarchies_[in_v1 ? 1 : 0];
  const std::string& known = in_v1 ? v1_path : path;
  struct stat status;
  return !known.empty() && stat((hierarchy.root + known).c_str(), &status) == 0 ? status.st_ino | hierarchy.version : 0;
}

void CgroupTable::look_again(uint64_t id) {
  const auto known = cgroups_.find(id);
  if (known == cgroups_.end()) return;
  Cgroup& cgroup = known->second;
  const std::shared_ptr<Container> before = cgroup.container;
  if (cgroup.tries >= RECORD_TRIES_MAX || (before != nullptr && !before->container_id.empty())) return;
  cgroup.tries = container_ids(cgroup.path).empty() ? RECORD_TRIES_MAX : cgroup.tries + 1;
  const std::string path = cgroup.path;
  const std::shared_ptr<Container> now = judge(id, path, cgroup.by_root, container_above(hierarchy_of(id), path, cgroup.by_root));
  if (now == before) return;
  for (auto& [each_id, each] : cgroups_) {
    if (each.container == before && (each_id & TG_CGROUP_V1) == (id & TG_CGROUP_V1) && is_cgroup_within(each.path, path)) each.container = now;
  }
}

void CgroupTable::records_learned() {
  for (auto& [id, cgroup] : cgroups_) {
    cgroup.tries = 0;
    if (cgroup.container == nullptr || cgroup.container->record) continue;
    if (cgroup.container->record_tries == RECORD_TRIES_MAX) not_described_--;
    cgroup.container->record_tries = 0;
  }
}

void CgroupTable::describe(Container& container) {
  if (container.container_id.empty() || container.record || container.record_tries >= RECORD_TRIES_MAX) return;
  std::optional<ContainerRecord> record;
  const Evidence found = best_record(container.container_id, container, record);
  if (found == Evidence::CONFIRMS || (found == Evidence::SILENT && container.by_root)) {
    take_record(container, std::move(*record));
  } else if (++container.record_tries == RECORD_TRIES_MAX) {
    not_described_++;
  }
}

CgroupTable::Cgroup& CgroupTable::add(uint64_t id, std::string path, bool by_root) {
  Hierarchy& hierarchy = hierarchy_of(id);
  std::shared_ptr<Container> container = judge(id, path, by_root, container_above(hierarchy, path, by_root));
  while (cgroups_.size() >= CGROUPS_MAX && !order_.empty()) {
    evicted_ += forget(order_.front());
    order_.pop_front();
  }
  order_.push_back(id);
  if (!path.empty()) hierarchy.ids[path] = id;
  return cgroups_[id] = {std::move(path), std::move(container), by_root, 0};
}

bool CgroupTable::forget(uint64_t id) {
  const auto known = cgroups_.find(id);
  if (known == cgroups_.end()) return false;
  auto& ids = hierarchy_of(id).ids;
  const auto at = ids.find(known->second.path);
  if (at != ids.end() && at->second == id) ids.erase(at);
  cgroups_.erase(known);
  return true;
}

// What the cgroup above a path belongs to; by_root: what to think of it if it is gone.
std::shared_ptr<Container> CgroupTable::container_above(Hierarchy& hierarchy, std::string_view path, bool by_root) {
  const std::string parent(parent_cgroup(path));
  if (parent.empty()) return nullptr;
  const auto id = hierarchy.ids.find(parent);
  if (id != hierarchy.ids.end()) return cgroups_.at(id->second).container;
  struct stat status;
  if (hierarchy.fd >= 0 && stat((hierarchy.root + parent).c_str(), &status) == 0) {
    const uint64_t parent_id = status.st_ino | hierarchy.version;
    if (!cgroups_.contains(parent_id)) return add(parent_id, parent, is_made_by_root(hierarchy, parent)).container;
  }
  return judge(hierarchy.version, parent, by_root, container_above(hierarchy, parent, by_root));
}

// What a cgroup belongs to: see the top of the header. above: what the one above it does.
std::shared_ptr<Container> CgroupTable::judge(uint64_t id, const std::string& path, bool by_root, const std::shared_ptr<Container>& above) {
  if (above != nullptr && !above->container_id.empty()) return above;
  CgroupName name = read_cgroup_name(path);
  if (!by_root) name.pod_uid.clear();
  auto found = std::make_shared<Container>();
  found->path = path;
  found->by_root = by_root;
  found->pod_uid = above != nullptr ? above->pod_uid : name.pod_uid;
  const bool is_pod = above == nullptr && !name.pod_uid.empty();

  Evidence of_name = Evidence::NONE;
  for (const std::string& each : is_pod && name.container_id.empty() ? std::vector<std::string>() : container_ids(path)) {
    std::optional<ContainerRecord> record;
    const Evidence evidence = best_record(each, *found, record);
    if (each == name.container_id) of_name = evidence;
    const bool believed = evidence == Evidence::SILENT && by_root && each == name.container_id;
    if (evidence != Evidence::CONFIRMS && !believed) continue;
    found->container_id = each;
    take_record(*found, std::move(*record));
    return keep(std::move(found), id);
  }
  if (!name.container_id.empty() && of_name != Evidence::CONTRADICTS && (by_root || name.is_prefixed)) {
    found->container_id = std::move(name.container_id);
    found->runtime = std::move(name.runtime);
    found->record_tries = 1;
    return keep(std::move(found), id);
  }
  return is_pod ? keep(std::move(found), id) : above;
}

CgroupTable::Evidence CgroupTable::best_record(const std::string& container_id, const Container& container,
                                               std::optional<ContainerRecord>& best) const {
  Evidence result = Evidence::NONE;
  records_.find(container_id, [&](const ContainerRecord& record) {
    const Evidence each = evidence(container, record);
    const bool better = each == Evidence::CONFIRMS || (each == Evidence::SILENT && result != Evidence::SILENT) || result == Evidence::NONE;
    if (better) {
      result = each;
      best = record;
    }
    return each == Evidence::CONFIRMS;
  });
  return result;
}

// Whether the record is of the container that has this cgroup.
CgroupTable::Evidence CgroupTable::evidence(const Container& container, const ContainerRecord& record) const {
  // A path that is not whole fits anybody's folder.
  const bool can_tell = container.by_root || record.cgroup.starts_with('/');
  if (can_tell && is_cgroup_asked_for(record.cgroup, container.path)) return Evidence::CONFIRMS;
  const auto init = record.init_pid == 0 ? cgroups_.end() : cgroups_.find(cgroup_of_pid_(record.init_pid));
  if (init != cgroups_.end() && !init->second.path.empty()) {
    // systemd keeps its own supervisor beside the payload.
    const bool is_beside = is_cgroup_within(init->second.path, container.path + "/payload");
    return is_cgroup_within(init->second.path, container.path) && !is_beside ? Evidence::CONFIRMS : Evidence::CONTRADICTS;
  }
  return record.cgroup.empty() ? Evidence::SILENT : Evidence::CONTRADICTS;
}

void CgroupTable::take_record(Container& container, ContainerRecord record) {
  if (container.pod_uid.empty()) container.pod_uid = record.pod_uid;
  container.runtime = record.runtime;
  container.record = std::move(record);
}

// The container that has this cgroup of its own: one that is known already, by its cgroup in the other hierarchy, or this one.
std::shared_ptr<Container> CgroupTable::keep(std::shared_ptr<Container> container, uint64_t id) {
  const uint64_t own = id & ~TG_CGROUP_V1;
  const auto own_id = id & TG_CGROUP_V1 ? &Container::cgroup_v1_id : &Container::cgroup_id;
  std::weak_ptr<Container>& slot = containers_[container->path];
  // A static pod's container may come back under the same path: a new cgroup is a new container.
  const std::shared_ptr<Container> known = slot.lock();
  const bool is_known = known != nullptr && known->container_id == container->container_id &&
                        ((*known).*own_id == 0 || own == 0 || (*known).*own_id == id);
  if (is_known) container = known;
  slot = container;
  if (own != 0) (*container).*own_id = id;
  return container;
}

// The path within the node's part of the hierarchy; nothing: outside of it.
std::optional<std::string> CgroupTable::inner_path(uint64_t id, std::string_view path) {
  Hierarchy& hierarchy = hierarchy_of(id);
  if (!hierarchy.is_part) return std::string(path);
  if (!hierarchy.outer) {
    const std::optional<std::string> inner = path_by_handle(id);
    if (!inner || !path.ends_with(*inner)) return inner;
    hierarchy.outer = path.substr(0, path.size() - (*inner == "/" ? 0 : inner->size()));
    return inner;
  }
  if (!is_cgroup_within(path, *hierarchy.outer)) return std::nullopt;
  path.remove_prefix(hierarchy.outer->size());
  return std::string(path.empty() ? "/" : path);
}

// For a cgroup whose making was not seen: nobody but root may have made it.
bool CgroupTable::is_made_by_root(const Hierarchy& hierarchy, const std::string& path) const {
  struct stat status;
  if (path.empty()) return false;
  return path == "/" || (stat((hierarchy.root + std::string(parent_cgroup(path))).c_str(), &status) == 0 && only_root_writes(status));
}

std::optional<std::string> CgroupTable::path_by_handle(uint64_t id) const {
  struct {
    file_handle handle;
    uint64_t id;
  } request{};
  static_assert(offsetof(decltype(request), id) == sizeof(file_handle));
  request.handle.handle_bytes = sizeof(request.id);
  request.handle.handle_type = FILEID_KERNFS;
  request.id = id & ~TG_CGROUP_V1;
  const Hierarchy& hierarchy = hierarchy_of(id);
  if (hierarchy.fd < 0) return std::nullopt;
  const int directory = open_by_handle_at(hierarchy.fd, &request.handle, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return std::nullopt;
  char path[PATH_MAX];
  const ssize_t length = readlink(("/proc/self/fd/" + std::to_string(directory)).c_str(), path, sizeof(path));
  close(directory);
  if (length < 0) return std::nullopt;
  std::string_view text(path, static_cast<size_t>(length));
  if (!is_cgroup_within(text, hierarchy.root)) return std::nullopt;
  text.remove_prefix(hierarchy.root.size());
  return std::string(text.empty() ? "/" : text);
}

}  // namespace tidegate
