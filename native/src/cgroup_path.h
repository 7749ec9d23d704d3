// SPDX-License-Identifier: Apache-2.0
// What the name of a cgroup says of pods and containers. Whoever may make folders may choose their names: whether one is believed is for the cgroup
// table to say.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tidegate {

struct CgroupName {
  std::string pod_uid;  // it is this pod's cgroup, or that of a container in it (containerd's <slice>:<prefix>:<id>)
  std::string container_id;  // it is this container's cgroup
  std::string runtime;  // empty: the name does not tell
  bool is_prefixed = false;  // the id has 64 digits and a runtime's prefix, as also containers of users without root have it
};

// Reads the last folder of the path, with those above it. Kubernetes with the cgroupfs and the systemd driver over containerd, CRI-O and Docker;
// Docker, Podman, nerdctl, ECS, buildkit, LXC and systemd-nspawn alone.
CgroupName read_cgroup_name(std::string_view path);

// The ids under which a runtime may have a record of a container with this cgroup, whatever their form; likeliest first, each fit to be a file name.
std::vector<std::string> container_ids(std::string_view path);

// Whether a runtime that was asked for this path (linux.cgroupsPath of the OCI specification: a path, or <slice>:<prefix>:<name> for systemd) made `path`.
bool is_cgroup_asked_for(std::string_view asked, std::string_view path);

// The cgroup above; empty: it is the root.
std::string_view parent_cgroup(std::string_view path);
bool is_cgroup_within(std::string_view path, std::string_view outer);

}  // namespace tidegate
