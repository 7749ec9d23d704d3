// SPDX-License-Identifier: Apache-2.0
#include "runtime_records.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "json_values.h"
#include "utf8_text.h"

namespace tidegate {
namespace {

constexpr size_t VALUE_MAX_BYTES = 1024;  // a longer name or image is no name or image
constexpr size_t COMMAND_MAX_BYTES = 512;  // of a health check: 256 are compared with what entered
constexpr std::string_view DOCKER_NAMESPACE = "moby";  // Docker's, in containerd
constexpr std::string_view DOCKER_ROOT = "/var/lib/docker";
// containerd alone, and as part of Docker, of k3s and RKE2, of k0s, and of MicroK8s. Others are learned.
constexpr std::string_view CONTAINERD_STATES[] = {
    "/run/containerd", "/run/docker/containerd/daemon", "/run/k3s/containerd", "/run/k0s/containerd", "/var/snap/microk8s/common/run/containerd",
};
constexpr std::string_view CONTAINERD_TASKS = "/io.containerd.runtime.v2.task";
// Containers have their folders in both.
constexpr std::string_view STORAGES[] = {
    "/run/containers/storage/overlay-containers", "/run/containers/storage/vfs-containers", "/run/containers/storage/btrfs-containers",
    "/var/lib/containers/storage/overlay-containers", "/var/lib/containers/storage/vfs-containers", "/var/lib/containers/storage/btrfs-containers",
};
// Its workers have their folders here; Docker's own has one.
constexpr std::string_view BUILDKIT_ROOT = "/var/lib/buildkit";
constexpr std::string_view BUILDKIT_IN_DOCKER = "/var/lib/docker/buildkit/executor";
constexpr std::string_view MACHINES = "/run/systemd/machines";
constexpr std::string_view LXC_CONFIG = "/var/lib/lxc";
constexpr std::string_view LXD_ROOTS[] = {"/var/lib/lxd", "/var/snap/lxd/common/lxd", "/var/lib/incus"};

void set_text(std::string& target, const std::string& value) {
  if (value.size() > VALUE_MAX_BYTES) return;
  target = is_utf8(value) ? value : to_utf8(value);
}

uint32_t to_pid(std::string_view text) {
  uint32_t pid = 0;
  return std::from_chars(text.data(), text.data() + text.size(), pid).ec == std::errc() ? pid : 0;
}

// Docker's Config.Healthcheck.Test, and Config.Shell: what it runs.
std::vector<std::string> health_check_of(const std::vector<std::string>& test, std::vector<std::string> shell) {
  std::vector<std::string> command;
  if (test.empty() || (test[0] != "CMD" && test[0] != "CMD-SHELL")) return command;
  if (test[0] == "CMD-SHELL") command = shell.empty() ? std::vector<std::string>{"/bin/sh", "-c"} : std::move(shell);
  command.insert(command.end(), test.begin() + 1, test.end());
  size_t left = COMMAND_MAX_BYTES;
  for (std::string& word : command) {
    word = std::string(whole_characters(std::string_view(to_utf8(word)).substr(0, left)));
    left -= word.size();
  }
  return command;
}

struct Annotation {
  std::string_view key;
  std::string ContainerRecord::*field;
};
constexpr Annotation ANNOTATIONS[] = {
    {"io.kubernetes.cri.container-name", &ContainerRecord::name},
    {"io.kubernetes.cri.image-name", &ContainerRecord::image},
    {"io.kubernetes.cri.sandbox-uid", &ContainerRecord::pod_uid},
    {"io.kubernetes.container.name", &ContainerRecord::name},  // CRI-O
    {"io.kubernetes.cri-o.ImageName", &ContainerRecord::image},
    {"io.kubernetes.pod.uid", &ContainerRecord::pod_uid},
    {"nerdctl/name", &ContainerRecord::name},
};

std::string_view next_argument(std::string_view& arguments) {
  const std::string_view argument = arguments.substr(0, arguments.find('\0'));
  arguments.remove_prefix(std::min(argument.size() + 1, arguments.size()));
  return argument;
}

}  // namespace

RuntimeRecords::RuntimeRecords(const std::string& host_root)
    : root_fd_(open(host_root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)),
      containerd_states_(std::begin(CONTAINERD_STATES), std::end(CONTAINERD_STATES)),
      storages_(std::begin(STORAGES), std::end(STORAGES)) {}

RuntimeRecords::~RuntimeRecords() {
  if (root_fd_ >= 0) close(root_fd_);
}

void RuntimeRecords::find(const std::string& id, const Take& take) const {
  if (root_fd_ < 0) return;
  const auto named = [&](const ContainerRecord& record) {
    if (!record.sandbox || record.name.empty()) return take(record);
    ContainerRecord sandbox = record;
    sandbox.name.clear();
    return take(sandbox);
  };
  if (in_containerd(id, named) || in_containers_storage(id, named)) return;
  if (ContainerRecord docker; in_docker(std::string(DOCKER_ROOT), id, docker) && named(docker)) return;
  if (in_machined(id, named) || in_oci_runtime(id, named) || in_buildkit(id, named)) return;
  in_lxc(id, named);
}

bool RuntimeRecords::learn(std::string_view cwd, std::string_view arguments) {
  if (root_fd_ < 0) return false;
  // A shim works in its container's bundle: <state>/io.containerd.runtime.v2.task/<namespace>/<id>.
  if (const size_t at = cwd.find(std::string(CONTAINERD_TASKS) + "/"); at != std::string_view::npos && at != 0)
    return learn_folder(containerd_states_, cwd.substr(0, at), std::size(CONTAINERD_STATES));
  // conmon -b <storage>/<driver>-containers/<id>/userdata
  std::string_view rest = arguments;
  const std::string_view program = next_argument(rest);
  if (program.substr(program.rfind('/') + 1) != "conmon") return false;
  while (!rest.empty()) {
    const std::string_view flag = next_argument(rest);
    if (flag != "-b" && flag != "--bundle") continue;
    std::string_view bundle = next_argument(rest);
    if (!bundle.starts_with('/') || !bundle.ends_with("/userdata")) return false;
    bundle.remove_suffix(bundle.size() - bundle.rfind('/'));
    return learn_folder(storages_, bundle.substr(0, bundle.rfind('/')), std::size(STORAGES));
  }
  return false;
}

bool RuntimeRecords::learn_folder(std::vector<std::string>& folders, std::string_view folder, size_t fixed) {
  if (folder.empty() || std::find(folders.begin(), folders.end(), folder) != folders.end()) return false;
  const std::string path(folder);
  const int directory = open_in_root(path, O_RDONLY | O_DIRECTORY);
  if (directory < 0) return false;
  struct stat status;
  const bool is_roots = fstat(directory, &status) == 0 && status.st_uid == 0 && (status.st_mode & (S_IWGRP | S_IWOTH)) == 0;
  close(directory);
  if (!is_roots) return false;
  if (folders.size() >= fixed + LEARNED_MAX) folders.erase(folders.begin() + static_cast<ptrdiff_t>(fixed));
  folders.push_back(path);
  return true;
}

bool RuntimeRecords::in_containerd(const std::string& id, const Take& take) const {
  for (const std::string& state : containerd_states_) {
    const std::string tasks = state + std::string(CONTAINERD_TASKS);
    for (const std::string& name : list(tasks)) {
      ContainerRecord record;
      std::string docker_root;
      if (!read_bundle({tasks + "/" + name, "", "init.pid", "containerd"}, id, record, &docker_root)) continue;
      // containerd does not know the names of Docker's containers. Whoever may ask Docker for one may annotate it: that makes no pod.
      if (name == DOCKER_NAMESPACE) {
        record.runtime = "docker";
        record.pod_uid.clear();
        in_docker(docker_root.empty() ? std::string(DOCKER_ROOT) : docker_root, id, record);
      }
      if (take(record)) return true;
    }
  }
  return false;
}

// CRI-O annotates the bundle; podman leaves names to the storage's index of containers.
bool RuntimeRecords::in_containers_storage(const std::string& id, const Take& take) const {
  for (const std::string& folder : storages_) {
    ContainerRecord record;
    if (!read_bundle({folder, "userdata/", "", "podman"}, id, record)) continue;
    // The bundle may be in the lasting folder, and the pid in the one that goes with a reboot.
    for (const std::string& each : storages_) {
      if (record.init_pid == 0) record.init_pid = read_pid(each + "/" + id + "/userdata/pidfile");
    }
    if (record.runtime != "cri-o") {
      read_storage_index(folder, id, record);
      // The same bundle stands in both folders of a storage; the names stand beside one.
      if (record.image.empty()) {
        for (const std::string& each : storages_) {
          if (each != folder && record.image.empty()) read_storage_index(each, id, record);
        }
      }
    }
    if (take(record)) return true;
  }
  return false;
}

// A container's metadata is JSON in a string.
void RuntimeRecords::read_storage_index(const std::string& folder, const std::string& id, ContainerRecord& record) const {
  const std::optional<std::string> index = read(folder + "/containers.json");
  if (!index) return;
  bool is_it = false;
  visit_json_values(*index, [&](const JsonPath& path, const std::string& value) {
    if (path.size() != 2) return;
    if (path[1] == "id") is_it = value == id;
    if (!is_it || path[1] != "metadata") return;
    visit_json_values(value, [&](const JsonPath& inner, const std::string& text) {
      if (inner.size() == 1 && inner[0] == "name") set_text(record.name, text);
      if (inner.size() == 1 && inner[0] == "image-name") set_text(record.image, text);
    });
  });
}

bool RuntimeRecords::in_docker(const std::string& data_root, const std::string& id, ContainerRecord& record) const {
  const std::optional<std::string> text = read(data_root + "/containers/" + id + "/config.v2.json");
  if (!text) return false;
  ContainerRecord found = record;
  found.runtime = "docker";
  std::string kubernetes_name;
  std::vector<std::string> test, shell;
  const auto read_config = [&](const JsonPath& path, const std::string& value) {
    if (path.size() == 1 && path[0] == "Name") set_text(found.name, value.starts_with('/') ? value.substr(1) : value);
    if (path.size() == 2 && path[0] == "Config" && path[1] == "Image") set_text(found.image, value);
    if (path.size() == 2 && path[0] == "State" && path[1] == "Pid" && found.init_pid == 0) found.init_pid = to_pid(value);
    if (path.size() == 3 && path[0] == "Config" && path[1] == "Shell") shell.push_back(value);
    if (path.size() == 4 && path[0] == "Config" && path[1] == "Healthcheck" && path[2] == "Test") test.push_back(value);
    if (path.size() != 3 || path[0] != "Config" || path[1] != "Labels") return;
    if (path[2] == "io.kubernetes.container.name") set_text(kubernetes_name, value);
    if (path[2] == "io.kubernetes.docker.type") found.sandbox = value == "podsandbox";
  };
  if (!visit_json_values(*text, read_config)) return false;
  if (!kubernetes_name.empty()) found.name = kubernetes_name;
  found.health_check = health_check_of(test, std::move(shell));
  record = std::move(found);
  return true;
}

bool RuntimeRecords::in_buildkit(const std::string& id, const Take& take) const {
  std::vector<std::string> executors{std::string(BUILDKIT_IN_DOCKER)};
  for (const std::string& worker : list(std::string(BUILDKIT_ROOT))) executors.push_back(std::string(BUILDKIT_ROOT) + "/" + worker + "/executor");
  for (const std::string& executor : executors) {
    ContainerRecord record;
    if (read_bundle({executor, "", "", "buildkit"}, id, record) && take(record)) return true;
  }
  return false;
}

// Containers that people start with runc or crun themselves. What a higher runtime has started was found before.
bool RuntimeRecords::in_oci_runtime(const std::string& id, const Take& take) const {
  for (const auto& [path, runtime] : {std::pair{"/run/runc/" + id + "/state.json", "runc"}, std::pair{"/run/crun/" + id + "/status", "crun"}}) {
    const std::optional<std::string> text = read(path);
    if (!text) continue;
    ContainerRecord record;
    record.runtime = runtime;
    record.name = id;
    const bool is_whole = visit_json_values(*text, [&](const JsonPath& at, const std::string& value) {
      if (at.size() != 1) return;
      if (at[0] == "init_process_pid" || at[0] == "pid") record.init_pid = to_pid(value);
      if (at[0] == "cgroup-path") record.cgroup = value;
    });
    if (is_whole && take(record)) return true;
  }
  return false;
}

// systemd-machined's: lines of KEY=value. Virtual machines are none of ours.
bool RuntimeRecords::in_machined(const std::string& id, const Take& take) const {
  const std::optional<std::string> text = read(std::string(MACHINES) + "/" + id);
  if (!text) return false;
  ContainerRecord record;
  record.name = id;
  bool is_container = false;
  for (std::string_view rest = *text; !rest.empty();) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    const size_t equals = line.find('=');
    if (equals == std::string_view::npos) continue;
    const std::string_view key = line.substr(0, equals), value = line.substr(equals + 1);
    if (key == "CLASS") is_container = value == "container";
    if (key == "SERVICE") set_text(record.runtime, std::string(value));
    if (key == "LEADER") record.init_pid = to_pid(value);
  }
  return is_container && take(record);
}

// LXC writes no pid down, and names the cgroup itself: that it has such a container is all that can be known.
bool RuntimeRecords::in_lxc(const std::string& id, const Take& take) const {
  bool known = is_file(std::string(LXC_CONFIG) + "/" + id + "/config");
  for (const std::string_view root : LXD_ROOTS) known = known || is_file(std::string(root) + "/containers/" + id + "/backup.yaml");
  if (!known) return false;
  ContainerRecord record;
  record.name = id;
  record.runtime = "lxc";
  return take(record);
}

// False: there is no such bundle, or it is not whole yet.
bool RuntimeRecords::read_bundle(const Bundles& bundles, const std::string& id, ContainerRecord& record, std::string* docker_root) const {
  const std::string folder = bundles.folder + "/" + id + "/" + bundles.inner;
  const std::optional<std::string> text = read(folder + "config.json");
  if (!text) return false;
  record.runtime = bundles.runtime;
  bool is_cri_o = false, is_podman = false;
  const bool is_whole = visit_json_values(*text, [&](const JsonPath& path, const std::string& value) {
    if (path.size() == 2 && path[0] == "linux" && path[1] == "cgroupsPath") record.cgroup = value;
    if (docker_root != nullptr && path.size() == 3 && path[0] == "mounts" && path[2] == "source") {
      const size_t at = value.find("/containers/" + id + "/");
      if (at != std::string::npos) *docker_root = value.substr(0, at);
    }
    if (path.size() != 2 || path[0] != "annotations") return;
    const std::string& key = path[1];
    for (const Annotation& known : ANNOTATIONS) {
      if (key == known.key) set_text(record.*known.field, value);
    }
    if (key == "io.kubernetes.cri.container-type" || key == "io.kubernetes.cri-o.ContainerType") record.sandbox = value == "sandbox";
    is_cri_o = is_cri_o || key.starts_with("io.kubernetes.cri-o.");
    is_podman = is_podman || (key == "io.container.manager" && value == "libpod");
  });
  // podman annotates what it plays of Kubernetes' files as CRI-O does. That makes no pod.
  if (is_podman) record.pod_uid.clear();
  if (is_cri_o && !is_podman) record.runtime = "cri-o";
  if (is_whole && !bundles.pid_file.empty()) record.init_pid = read_pid(folder + bundles.pid_file);
  return is_whole;
}

uint32_t RuntimeRecords::read_pid(const std::string& path) const {
  const std::optional<std::string> text = read(path);
  return text ? to_pid(*text) : 0;
}

std::vector<std::string> RuntimeRecords::list(const std::string& path) const {
  std::vector<std::string> names;
  const int file = open_in_root(path, O_RDONLY | O_DIRECTORY);
  DIR* const directory = file < 0 ? nullptr : fdopendir(file);
  if (directory == nullptr) {
    if (file >= 0) close(file);
    return names;
  }
  while (const dirent* entry = names.size() < FOLDERS_MAX ? readdir(directory) : nullptr) {
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  closedir(directory);
  return names;
}

// Links on the way, also absolute ones, are the node's: they do not lead out of its root.
int RuntimeRecords::open_in_root(const std::string& path, int flags) const {
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC | O_NONBLOCK);
  how.resolve = RESOLVE_IN_ROOT;
  return static_cast<int>(syscall(SYS_openat2, root_fd_, path.c_str(), &how, sizeof(how)));
}

std::optional<std::string> RuntimeRecords::read(const std::string& path) const {
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

bool RuntimeRecords::is_file(const std::string& path) const {
  const int file = open_in_root(path, O_RDONLY);
  if (file < 0) return false;
  struct stat status;
  const bool regular = fstat(file, &status) == 0 && S_ISREG(status.st_mode);
  close(file);
  return regular;
}

}  // namespace tidegate
