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
constexpr size_t DEPTH_MAX = 64;

}  // namespace

CgroupTable::CgroupTable(std::string root, std::string v1_root, const RuntimeBundles& bundles)
    : hierarchies_{Hierarchy{std::move(root), -1, 0}, Hierarchy{std::move(v1_root), -1, TG_CGROUP_V1}}, bundles_(bundles) {
  for (Hierarchy& hierarchy : hierarchies_) hierarchy.fd = open(hierarchy.root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
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
    walk_directory(directory, path, hierarchy.version);
  }
}

// Takes directory_fd over. The inode number of a cgroup's directory is its id.
void CgroupTable::walk_directory(int directory_fd, std::string& path, uint64_t version) {
  struct stat status;
  if (fstat(directory_fd, &status) == 0) made(status.st_ino | version, path.empty() ? "/" : path);
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
    walk_directory(child, path, version);
    path.resize(length);
  }
  closedir(directory);
}

void CgroupTable::made(uint64_t id, std::string_view path) {
  if (!cgroups_.contains(id)) add(id, path);
}

void CgroupTable::removed(uint64_t id, uint64_t now_ns) {
  if (cgroups_.contains(id)) removed_.push_back({id, now_ns});
}

void CgroupTable::expire(uint64_t now_ns) {
  while (!removed_.empty() && removed_.front().at_ns + REMOVED_KEEP_NS <= now_ns) {
    cgroups_.erase(removed_.front().id);
    removed_.pop_front();
  }
  // Ids are never used again, so an id that left the table leaves here too, at the latest when it is the oldest.
  while (!order_.empty() && !cgroups_.contains(order_.front())) order_.pop_front();
  std::erase_if(containers_, [](const auto& entry) { return entry.second.expired(); });
}

std::shared_ptr<Container> CgroupTable::container(uint64_t id) {
  const auto known = cgroups_.find(id);
  if (known != cgroups_.end()) return known->second;
  if (id == 0) return nullptr;
  // One that is not there is gone for good, ids are not used twice: nothing will be known of it, and it is not asked for again.
  return add(id, path_by_handle(id).value_or("/"));
}

uint64_t CgroupTable::id(const std::string& path, const std::string& v1_path) const {
  const bool in_v1 = path.size() <= 1 && v1_path.size() > 1;
  const Hierarchy& hierarchy = hierarchies_[in_v1 ? 1 : 0];
  const std::string& known = in_v1 ? v1_path : path;
  struct stat status;
  return !known.empty() && stat((hierarchy.root + known).c_str(), &status) == 0 ? status.st_ino | hierarchy.version : 0;
}

std::shared_ptr<Container>& CgroupTable::add(uint64_t id, std::string_view path) {
  while (cgroups_.size() >= CGROUPS_MAX && !order_.empty()) {
    evicted_ += cgroups_.erase(order_.front());
    order_.pop_front();
  }
  order_.push_back(id);
  ContainerIdentity identity = identify_container(path);
  std::shared_ptr<Container>& entry = cgroups_[id];
  if (!identity.on_host()) {
    const bool own = identity.path == path;
    entry = container_at(std::move(identity), id, own);
  }
  return entry;
}

std::shared_ptr<Container> CgroupTable::container_at(ContainerIdentity identity, uint64_t id, bool own) {
  std::weak_ptr<Container>& slot = containers_[identity.path];
  std::shared_ptr<Container> container = slot.lock();
  // A static pod's container may come back under the same path: a new cgroup is a new container.
  const auto own_id = id & TG_CGROUP_V1 ? &Container::cgroup_v1_id : &Container::cgroup_id;
  if (container == nullptr || (own && (*container).*own_id != 0 && (*container).*own_id != id)) {
    container = std::make_shared<Container>();
    container->identity = std::move(identity);
    slot = container;
  }
  if (own) (*container).*own_id = id;
  // Now, as a container that ends at once takes its bundle along.
  if (container->description_tries == 0) describe(*container);
  return container;
}

void CgroupTable::describe(Container& container) {
  const std::string& id = container.identity.container_id;
  if (id.empty() || container.description || container.description_tries >= DESCRIPTION_TRIES_MAX) return;
  container.description = bundles_.find(id);
  if (!container.description && ++container.description_tries == DESCRIPTION_TRIES_MAX) not_described_++;
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
  const Hierarchy& hierarchy = hierarchies_[id & TG_CGROUP_V1 ? 1 : 0];
  if (hierarchy.fd < 0) return std::nullopt;
  const int directory = open_by_handle_at(hierarchy.fd, &request.handle, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return std::nullopt;
  char path[PATH_MAX];
  const ssize_t length = readlink(("/proc/self/fd/" + std::to_string(directory)).c_str(), path, sizeof(path));
  close(directory);
  if (length < 0) return std::nullopt;
  std::string_view text(path, static_cast<size_t>(length));
  if (text.starts_with(hierarchy.root)) text.remove_prefix(hierarchy.root.size());
  return std::string(text.empty() ? "/" : text);
}

}  // namespace tidegate
