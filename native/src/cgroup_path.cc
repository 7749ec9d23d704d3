// SPDX-License-Identifier: Apache-2.0
#include "cgroup_path.h"

#include <algorithm>
#include <vector>

namespace tidegate {
namespace {

constexpr size_t CONTAINER_ID_LENGTH = 64;
constexpr size_t UUID_LENGTH = 36;
constexpr size_t STATIC_POD_UID_LENGTH = 32;  // a static pod's UID is a hash without dashes

bool is_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool is_container_id(std::string_view text) { return text.size() == CONTAINER_ID_LENGTH && is_hex(text); }

bool strip_suffix(std::string_view& text, std::string_view suffix) {
  if (!text.ends_with(suffix)) return false;
  text.remove_suffix(suffix.size());
  return true;
}

// pod<uid> (cgroupfs), [<parents>-]kubepods[-burstable|-besteffort]-pod<uid with _ for ->.slice (systemd). Empty: no pod.
std::string pod_uid_of(std::string_view component) {
  const bool slice = strip_suffix(component, ".slice");
  if (slice) {
    const size_t at = component.rfind("-pod");
    if (at == std::string_view::npos || component.find("kubepods") == std::string_view::npos) return {};
    component.remove_prefix(at + 4);
  } else {
    if (!component.starts_with("pod")) return {};
    component.remove_prefix(3);
  }
  std::string uid(component);
  if (slice) std::replace(uid.begin(), uid.end(), '_', '-');
  if (uid.size() == STATIC_POD_UID_LENGTH) return is_hex(uid) ? uid : std::string();
  if (uid.size() != UUID_LENGTH) return {};
  for (size_t index = 0; index < uid.size(); index++) {
    const bool dash = index == 8 || index == 13 || index == 18 || index == 23;
    if (dash ? uid[index] != '-' : !is_hex({&uid[index], 1})) return {};
  }
  return uid;
}

struct RuntimePrefix {
  std::string_view prefix, runtime;
};
constexpr RuntimePrefix RUNTIME_PREFIXES[] = {
    {"cri-containerd-", "containerd"}, {"nerdctl-", "containerd"}, {"crio-", "cri-o"}, {"docker-", "docker"}, {"libpod-", "podman"},
};

struct Component {
  std::string_view text, parent;
  size_t end;  // offset in the path behind it
};

// [<runtime>-]<id>[.scope]; a bare id's runtime shows in the component before it (docker/<id>), if at all.
bool container_of(const Component& component, ContainerIdentity& identity) {
  std::string_view text = component.text;
  strip_suffix(text, ".scope");
  std::string_view runtime;
  for (const RuntimePrefix& known : RUNTIME_PREFIXES) {
    if (!text.starts_with(known.prefix)) continue;
    text.remove_prefix(known.prefix.size());
    runtime = known.runtime;
    break;
  }
  if (!is_container_id(text)) return false;
  if (runtime.empty()) {
    if (component.parent == "docker") runtime = "docker";
    if (component.parent == "libpod_parent") runtime = "podman";
    if (component.parent == "cri-containerd" || component.parent == "k8s.io") runtime = "containerd";
  }
  identity.container_id = text;
  identity.runtime = runtime;
  return true;
}

// containerd with the systemd naming under a cgroupfs driver joins with ':': <slice>:cri-containerd:<id>.
std::vector<Component> split(std::string_view path) {
  std::vector<Component> components;
  std::string_view parent;
  for (size_t start = 0; start <= path.size();) {
    const size_t end = std::min(path.find_first_of("/:", start), path.size());
    const std::string_view text = path.substr(start, end - start);
    if (!text.empty()) {
      components.push_back({text, parent, end});
      parent = text;
    }
    start = end + 1;
  }
  return components;
}

}  // namespace

ContainerIdentity identify_container(std::string_view path) {
  ContainerIdentity identity;
  const std::vector<Component> components = split(path);
  // The last pod of the path: a kubelet may itself run in a container. Then the first container below it: one may run others.
  auto from = components.begin();
  for (auto component = components.begin(); component != components.end(); ++component) {
    std::string uid = pod_uid_of(component->text);
    if (uid.empty()) continue;
    identity.pod_uid = std::move(uid);
    identity.path = path.substr(0, component->end);
    from = component + 1;
  }
  for (auto component = from; component != components.end(); ++component) {
    if (!container_of(*component, identity)) continue;
    identity.path = path.substr(0, component->end);
    break;
  }
  return identity;
}

}  // namespace tidegate
