// SPDX-License-Identifier: Apache-2.0
// What the container runtime wrote on this node about a container before it started it.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace tidegate {

struct ContainerDescription {
  std::string name;  // empty for a sandbox
  std::string image;  // as the runtime was asked for it
  std::string runtime;
  bool sandbox = false;
};

class RuntimeBundles {
 public:
  // A file that is larger is not read: the largest seen, with thousands of environment variables, are below 1 MiB.
  static constexpr size_t FILE_MAX_BYTES = 4 << 20;
  // Namespaces of one containerd that are looked through.
  static constexpr size_t CONTAINERD_NAMESPACES_MAX = 32;

  // host_root: the node's root folder. containerd_states: state folders of containerd, in the node.
  RuntimeBundles(const std::string& host_root, std::vector<std::string> containerd_states);
  ~RuntimeBundles();
  RuntimeBundles(const RuntimeBundles&) = delete;
  RuntimeBundles& operator=(const RuntimeBundles&) = delete;

  // Looks where containerd, CRI-O, Docker and podman keep their bundles. Nothing: not there (yet), or not readable.
  // container_id: 64 hexadecimal digits, so that it cannot leave the folder.
  std::optional<ContainerDescription> find(const std::string& container_id) const;

 private:
  std::optional<ContainerDescription> in_containerd(const std::string& container_id) const;
  std::optional<ContainerDescription> in_containers_storage(const std::string& container_id) const;
  std::optional<ContainerDescription> in_docker(const std::string& container_id) const;
  int open_in_root(const std::string& path, int flags) const;
  std::optional<std::string> read(const std::string& path) const;

  int root_fd_;
  std::vector<std::string> containerd_states_;
};

}  // namespace tidegate
