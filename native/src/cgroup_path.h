// SPDX-License-Identifier: Apache-2.0
// Which pod and container a cgroup belongs to, read from its path.
#pragma once

#include <string>
#include <string_view>

namespace tidegate {

struct ContainerIdentity {
  std::string container_id;  // empty: a pod's cgroup outside its containers
  std::string pod_uid;  // empty: not Kubernetes
  std::string runtime;  // empty: the path does not tell
  std::string path;  // of the container's own cgroup: `path` up to it

  bool on_host() const { return container_id.empty() && pod_uid.empty(); }
};

// Kubernetes with the cgroupfs and the systemd driver over containerd, CRI-O and Docker; Docker, Podman, nerdctl and ECS alone. Cgroups
// nested in a container belong to it; so do containers started inside a pod's container.
ContainerIdentity identify_container(std::string_view path);

}  // namespace tidegate
