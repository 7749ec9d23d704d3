// SPDX-License-Identifier: Apache-2.0
#include "runtime_bundles.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string_view>

#include "json_strings.h"
#include "utf8_text.h"

namespace tidegate {
namespace {

constexpr size_t VALUE_MAX_BYTES = 1024;  // a longer name or image is no name or image
constexpr std::string_view DOCKER_NAMESPACE = "moby";  // Docker's, in containerd
// containers/storage, which CRI-O and podman share. Containers have their folders in both.
constexpr std::string_view CONTAINERS_STORAGE[] = {"/run/containers/storage", "/var/lib/containers/storage"};
constexpr std::string_view STORAGE_DRIVERS[] = {"overlay-containers", "vfs-containers", "btrfs-containers"};

void set_text(std::string& target, const std::string& value) {
  if (value.size() > VALUE_MAX_BYTES) return;
  target = is_utf8(value) ? value : to_utf8(value);
}

struct Annotation {
  std::string_view key;
  std::string ContainerDescription::*field;
};
constexpr Annotation ANNOTATIONS[] = {
    {"io.kubernetes.cri.container-name", &ContainerDescription::name},
    {"io.kubernetes.cri.image-name", &ContainerDescription::image},
    {"io.kubernetes.container.name", &ContainerDescription::name},  // CRI-O
    {"io.kubernetes.cri-o.ImageName", &ContainerDescription::image},
    {"nerdctl/name", &ContainerDescription::name},
};

// config.json of an OCI bundle: Kubernetes' names stand in its annotations. False: not such a file, or not whole yet.
bool read_annotations(std::string_view text, ContainerDescription& out) {
  return visit_json_strings(text, [&](const JsonPath& path, const std::string& value) {
    if (path.size() != 2 || path[0] != "annotations") return;
    const std::string& key = path[1];
    for (const Annotation& known : ANNOTATIONS) {
      if (key == known.key) set_text(out.*known.field, value);
    }
    if (key == "io.kubernetes.cri.container-type" || key == "io.kubernetes.cri-o.ContainerType") out.sandbox = value == "sandbox";
    if (key.starts_with("io.kubernetes.cri-o.")) out.runtime = "cri-o";
  });
}

}  // namespace

RuntimeBundles::RuntimeBundles(const std::string& host_root, std::vector<std::string> containerd_states)
    : root_fd_(open(host_root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)), containerd_states_(std::move(containerd_states)) {}

RuntimeBundles::~RuntimeBundles() {
  if (root_fd_ >= 0) close(root_fd_);
}

std::optional<ContainerDescription> RuntimeBundles::find(const std::string& container_id) const {
  if (root_fd_ < 0) return std::nullopt;
  // Docker first: its containers are containerd's too, which does not know their names.
  std::optional<ContainerDescription> found = in_docker(container_id);
  if (!found) found = in_containerd(container_id);
  if (!found) found = in_containers_storage(container_id);
  if (found && found->sandbox) found->name.clear();
  return found;
}

std::optional<ContainerDescription> RuntimeBundles::in_containerd(const std::string& container_id) const {
  for (const std::string& state : containerd_states_) {
    const std::string tasks = state + "/io.containerd.runtime.v2.task";
    const int directory_fd = open_in_root(tasks, O_RDONLY | O_DIRECTORY);
    DIR* const directory = directory_fd < 0 ? nullptr : fdopendir(directory_fd);
    if (directory == nullptr) {
      if (directory_fd >= 0) close(directory_fd);
      continue;
    }
    std::optional<ContainerDescription> found;
    size_t looked_at = 0;
    while (const dirent* entry = !found && looked_at < CONTAINERD_NAMESPACES_MAX ? readdir(directory) : nullptr) {
      const std::string_view name = entry->d_name;
      if (name.starts_with('.')) continue;
      looked_at++;
      const std::optional<std::string> text = read(tasks + "/" + std::string(name) + "/" + container_id + "/config.json");
      ContainerDescription description;
      description.runtime = name == DOCKER_NAMESPACE ? "docker" : "containerd";
      if (text && read_annotations(*text, description)) found = std::move(description);
    }
    closedir(directory);
    if (found) return found;
  }
  return std::nullopt;
}

// CRI-O annotates the bundle; podman leaves names to the storage's index of containers, whose metadata is JSON in a string.
std::optional<ContainerDescription> RuntimeBundles::in_containers_storage(const std::string& container_id) const {
  for (const std::string_view storage : CONTAINERS_STORAGE) {
    for (const std::string_view driver : STORAGE_DRIVERS) {
      const std::string folder = std::string(storage) + "/" + std::string(driver) + "/";
      const std::optional<std::string> text = read(folder + container_id + "/userdata/config.json");
      ContainerDescription description;
      description.runtime = "podman";
      if (!text || !read_annotations(*text, description)) continue;
      if (description.runtime == "cri-o") return description;
      const std::optional<std::string> index = read(folder + "containers.json");
      bool is_it = false;
      const auto read_index = [&](const JsonPath& path, const std::string& value) {
        if (path.size() != 2) return;
        if (path[1] == "id") is_it = value == container_id;
        if (!is_it || path[1] != "metadata") return;
        visit_json_strings(value, [&](const JsonPath& inner, const std::string& text) {
          if (inner.size() == 1 && inner[0] == "name") set_text(description.name, text);
          if (inner.size() == 1 && inner[0] == "image-name") set_text(description.image, text);
        });
      };
      if (index && visit_json_strings(*index, read_index) && !description.image.empty()) return description;
    }
  }
  return std::nullopt;
}

std::optional<ContainerDescription> RuntimeBundles::in_docker(const std::string& container_id) const {
  const std::optional<std::string> text = read("/var/lib/docker/containers/" + container_id + "/config.v2.json");
  if (!text) return std::nullopt;
  ContainerDescription description;
  description.runtime = "docker";
  std::string kubernetes_name;
  const auto read_config = [&](const JsonPath& path, const std::string& value) {
    if (path.size() == 1 && path[0] == "Name") set_text(description.name, value.starts_with('/') ? value.substr(1) : value);
    if (path.size() == 2 && path[0] == "Config" && path[1] == "Image") set_text(description.image, value);
    if (path.size() != 3 || path[0] != "Config" || path[1] != "Labels") return;
    if (path[2] == "io.kubernetes.container.name") set_text(kubernetes_name, value);
    if (path[2] == "io.kubernetes.docker.type") description.sandbox = value == "podsandbox";
  };
  if (!visit_json_strings(*text, read_config)) return std::nullopt;
  if (!kubernetes_name.empty()) description.name = kubernetes_name;
  return description;
}

// Links on the way, also absolute ones, are the node's: they do not lead out of its root.
int RuntimeBundles::open_in_root(const std::string& path, int flags) const {
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC | O_NONBLOCK);
  how.resolve = RESOLVE_IN_ROOT;
  return static_cast<int>(syscall(SYS_openat2, root_fd_, path.c_str(), &how, sizeof(how)));
}

std::optional<std::string> RuntimeBundles::read(const std::string& path) const {
  const int file = open_in_root(path, O_RDONLY);
  if (file < 0) return std::nullopt;
  std::string text;
  struct stat status;
  if (fstat(file, &status) == 0 && S_ISREG(status.st_mode) && static_cast<size_t>(status.st_size) <= FILE_MAX_BYTES) {
    text.resize(static_cast<size_t>(status.st_size));
    size_t size = 0;
    while (size < text.size()) {
      const ssize_t count = ::read(file, text.data() + size, text.size() - size);
      if (count <= 0) break;
      size += static_cast<size_t>(count);
    }
    text.resize(size);
  }
  close(file);
  return text.empty() ? std::nullopt : std::optional(std::move(text));
}

}  // namespace tidegate
