// SPDX-License-Identifier: Apache-2.0
// What container runtimes wrote on this node about their containers.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tidegate {

struct ContainerRecord {
  std::string name;  // empty for a sandbox
  std::string image;  // as the runtime was asked for it
  std::string runtime;
  std::string pod_uid;  // empty: not said
  std::vector<std::string> health_check;  // the runtime's own command in it; empty: none, or not said
  bool sandbox = false;
  std::string cgroup;  // as the runtime was asked for it, see is_cgroup_asked_for; empty: not said
  uint32_t init_pid = 0;  // of the container's first process, as the node counts; 0: not said, or not yet
};

class RuntimeRecords {
 public:
  // A file that is larger is not read: the largest seen, with thousands of environment variables, are below 1 MiB.
  static constexpr size_t FILE_MAX_BYTES = 4 << 20;
  // Namespaces of one containerd, or workers of one buildkit, that are looked through.
  static constexpr size_t FOLDERS_MAX = 32;
  // Folders learned from monitors, of each kind; beyond, the one learned longest ago goes.
  static constexpr size_t LEARNED_MAX = 16;

  // host_root: the node's root folder.
  explicit RuntimeRecords(const std::string& host_root);
  ~RuntimeRecords();
  RuntimeRecords(const RuntimeRecords&) = delete;
  RuntimeRecords& operator=(const RuntimeRecords&) = delete;

  // Hands out the records there are under this id, until `take` returns true. Several runtimes, and namespaces of one, may have the same id.
  // id: one that container_ids() gave.
  void find(const std::string& id, const std::function<bool(const ContainerRecord&)>& take) const;

  // Where a runtime keeps its records stands in the working folder or the arguments of the monitor it starts for each container. The process must
  // be one of root's, outside containers. arguments: argv, each string ended by NUL. True: a folder that was not known.
  bool learn(std::string_view cwd, std::string_view arguments);

 private:
  using Take = std::function<bool(const ContainerRecord&)>;
  // <folder>/<id>/config.json is the bundle of the OCI specification.
  struct Bundles {
    std::string folder, inner, pid_file, runtime;
  };

  bool in_docker(const std::string& data_root, const std::string& id, ContainerRecord& record) const;
  bool in_containerd(const std::string& id, const Take& take) const;
  bool in_containers_storage(const std::string& id, const Take& take) const;
  bool in_buildkit(const std::string& id, const Take& take) const;
  bool in_oci_runtime(const std::string& id, const Take& take) const;
  bool in_machined(const std::string& id, const Take& take) const;
  bool in_lxc(const std::string& id, const Take& take) const;
  bool read_bundle(const Bundles& bundles, const std::string& id, ContainerRecord& record, std::string* docker_root = nullptr) const;
  void read_storage_index(const std::string& folder, const std::string& id, ContainerRecord& record) const;
  uint32_t read_pid(const std::string& path) const;
  // Names in a folder, FOLDERS_MAX at most.
  std::vector<std::string> list(const std::string& path) const;
  int open_in_root(const std::string& path, int flags) const;
  std::optional<std::string> read(const std::string& path) const;
  bool is_file(const std::string& path) const;
  bool learn_folder(std::vector<std::string>& folders, std::string_view folder, size_t fixed);

  int root_fd_;
  std::vector<std::string> containerd_states_;
  std::vector<std::string> storages_;  // <storage>/<driver>-containers of containers/storage, which CRI-O and podman share
};

}  // namespace tidegate
