// SPDX-License-Identifier: Apache-2.0
#include "cgroup_path.h"

#include <algorithm>
#include <charconv>

namespace tidegate {
namespace {

constexpr size_t CONTAINER_ID_LENGTH = 64;
constexpr size_t BUILDKIT_ID_LENGTH = 25;
constexpr size_t UUID_LENGTH = 36;
constexpr size_t STATIC_POD_UID_LENGTH = 32;  // a static pod's UID is a hash without dashes
constexpr size_t ID_MAX_LENGTH = 128;
constexpr size_t DASHES_MAX = 4;  // of a scope's name, behind each of which the id may begin

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
bool is_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return is_digit(c) || (c >= 'a' && c <= 'f'); });
}
bool is_container_id(std::string_view text) { return text.size() == CONTAINER_ID_LENGTH && is_hex(text); }
bool is_buildkit_id(std::string_view text) {
  return text.size() == BUILDKIT_ID_LENGTH && std::all_of(text.begin(), text.end(), [](char c) { return is_digit(c) || is_lower(c); });
}

// A container's id or name as runtimes allow it. It can be a file's name: no slash, and no dot in front.
bool is_id(std::string_view text) {
  const auto plain = [](char c) { return is_digit(c) || is_lower(c) || (c >= 'A' && c <= 'Z'); };
  return !text.empty() && text.size() <= ID_MAX_LENGTH && plain(text.front()) && std::all_of(text.begin(), text.end(), [&](char c) {
    return plain(c) || c == '_' || c == '.' || c == '-' || c == '+';
  });
}

bool strip_prefix(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

bool strip_suffix(std::string_view& text, std::string_view suffix) {
  if (!text.ends_with(suffix)) return false;
  text.remove_suffix(suffix.size());
  return true;
}

std::string_view last_folder(std::string_view path) { return path.substr(std::min(path.rfind('/') + 1, path.size())); }

// As systemd escapes what is not plain in a unit's name: \x2d.
std::string unescape_unit(std::string_view text) {
  std::string plain;
  while (!text.empty()) {
    unsigned code = 0;
    const bool escaped = text.size() >= 4 && text.starts_with("\\x") && std::from_chars(&text[2], &text[4], code, 16).ptr == &text[4];
    plain += escaped ? static_cast<char>(code) : text.front();
    text.remove_prefix(escaped ? 4 : 1);
  }
  return plain;
}

// Name of the machine whose unit this is; empty: it is none. Its scope may also be a virtual machine's.
std::string nspawn_machine(std::string_view unit) {
  return strip_prefix(unit, "systemd-nspawn@") && strip_suffix(unit, ".service") ? unescape_unit(unit) : std::string();
}
std::string machine_of(std::string_view unit) {
  if (std::string name = nspawn_machine(unit); !name.empty()) return name;
  return strip_prefix(unit, "machine-") && strip_suffix(unit, ".scope") ? unescape_unit(unit) : std::string();
}

// pod<uid> below kubepods (cgroupfs), [<parents>-]kubepods[-burstable|-besteffort]-pod<uid with _ for ->.slice in the slice it is named after
// (systemd). Empty: no pod. `parent`: path of the cgroup above; nothing is asked of it when the folder joins slice and container itself.
std::string pod_uid_of(std::string_view folder, std::string_view parent, bool is_joined) {
  const bool slice = strip_suffix(folder, ".slice");
  if (slice) {
    const size_t at = folder.rfind("-pod");
    if (at == std::string_view::npos || folder.substr(0, at).find("kubepods") == std::string_view::npos) return {};
    std::string_view above = last_folder(parent);
    if (!is_joined && !(strip_suffix(above, ".slice") && above == folder.substr(0, at))) return {};
    folder.remove_prefix(at + 4);
  } else {
    if (!strip_prefix(folder, "pod")) return {};
    std::string_view above = last_folder(parent);
    if (above == "burstable" || above == "besteffort") above = last_folder(parent_cgroup(parent));
    if (above != "kubepods") return {};
  }
  std::string uid(folder);
  if (slice) std::replace(uid.begin(), uid.end(), '_', '-');
  if (uid.size() == STATIC_POD_UID_LENGTH) return is_hex(uid) ? uid : std::string();
  if (uid.size() != UUID_LENGTH) return {};
  for (size_t index = 0; index < uid.size(); index++) {
    const bool dash = index == 8 || index == 13 || index == 18 || index == 23;
    if (dash ? uid[index] != '-' : !is_hex({&uid[index], 1})) return {};
  }
  return uid;
}

struct RuntimeName {
  std::string_view name, runtime;
};
constexpr RuntimeName PREFIXES[] = {
    {"cri-containerd-", "containerd"}, {"nerdctl-", "containerd"}, {"crio-", "cri-o"},
    {"docker-", "docker"},             {"libpod-payload-", "podman"}, {"libpod-", "podman"},
};
// The folder above a bare id.
constexpr RuntimeName FOLDERS[] = {
    {"docker", "docker"}, {"libpod_parent", "podman"}, {"cri-containerd", "containerd"}, {"k8s.io", "containerd"},
};

void read_container(std::string_view folder, std::string_view above, std::string_view parent, CgroupName& name) {
  const auto is = [&](std::string_view id, std::string_view runtime) {
    name.container_id = id;
    name.runtime = runtime;
  };
  std::string_view text = folder;
  strip_suffix(text, ".scope");
  for (const RuntimeName& known : PREFIXES) {
    std::string_view id = text;
    if (!strip_prefix(id, known.name) || !is_container_id(id)) continue;
    name.is_prefixed = true;
    return is(id, known.runtime);
  }
  if (is_container_id(text)) {
    const auto* const known = std::find_if(std::begin(FOLDERS), std::end(FOLDERS), [&](const RuntimeName& each) { return each.name == above; });
    return is(text, known == std::end(FOLDERS) ? std::string_view() : known->runtime);
  }
  if (std::string_view id = text; (above == "buildkit" || strip_prefix(id, "buildkit-")) && is_buildkit_id(id)) return is(id, "buildkit");
  if (std::string_view id = text; strip_prefix(id, "lxc.payload.") && is_id(id)) return is(id, "lxc");
  if ((parent == "/lxc" || parent == "/lxc.payload") && is_id(text)) return is(text, "lxc");
  if (parent_cgroup(parent) == "/ecs" && is_id(text)) return is(text, "");
  if (folder == "payload") {
    if (const std::string machine = nspawn_machine(above); !machine.empty()) return is(machine, "systemd-nspawn");
  }
}

// /a.slice/a-b.slice for a-b.slice.
std::string slice_path(std::string_view slice) {
  std::string path;
  std::string_view name = slice;
  if (!strip_suffix(name, ".slice") || name == "-") return path;
  for (size_t at = name.find('-'); ; at = name.find('-', at + 1)) {
    path.append("/").append(name.substr(0, at)).append(".slice");
    if (at == std::string_view::npos) return path;
  }
}

}  // namespace

std::string_view parent_cgroup(std::string_view path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string_view::npos || path.size() <= 1) return {};
  return slash == 0 ? path.substr(0, 1) : path.substr(0, slash);
}

bool is_cgroup_within(std::string_view path, std::string_view outer) {
  return outer == "/" || (path.starts_with(outer) && (path.size() == outer.size() || path[outer.size()] == '/'));
}

CgroupName read_cgroup_name(std::string_view path) {
  CgroupName name;
  const std::string_view parent = parent_cgroup(path);
  const std::string_view folder = last_folder(path);
  // containerd with the systemd naming under a cgroupfs driver: <slice>:cri-containerd:<id>.
  const size_t first = folder.find(':');
  const size_t second = first == std::string_view::npos ? first : folder.find(':', first + 1);
  if (second != std::string_view::npos) {
    name.pod_uid = pod_uid_of(folder.substr(0, first), parent, true);
    read_container(folder.substr(second + 1), folder.substr(first + 1, second - first - 1), parent, name);
    return name;
  }
  name.pod_uid = pod_uid_of(folder, parent, false);
  if (name.pod_uid.empty()) read_container(folder, last_folder(parent), parent, name);
  return name;
}

std::vector<std::string> container_ids(std::string_view path) {
  std::vector<std::string> ids;
  const auto add = [&](std::string_view id) {
    if (is_id(id)) ids.emplace_back(id);
  };
  std::string_view folder = last_folder(path);
  if (folder == "payload") {
    add(machine_of(last_folder(parent_cgroup(path))));
    return ids;
  }
  if (const std::string machine = machine_of(folder); !machine.empty()) {
    add(machine);
    return ids;
  }
  for (const std::string_view unit : {".slice", ".service", ".socket", ".mount"}) {
    if (folder.ends_with(unit)) return ids;
  }
  strip_suffix(folder, ".scope");
  if (const size_t colon = folder.rfind(':'); colon != std::string_view::npos) folder.remove_prefix(colon + 1);
  if (std::string_view name = folder; strip_prefix(name, "lxc.payload.")) add(name);
  add(folder);
  size_t dashes = 0;
  for (size_t at = folder.find('-'); at != std::string_view::npos && dashes < DASHES_MAX; at = folder.find('-', at + 1), dashes++) {
    add(folder.substr(at + 1));
  }
  return ids;
}

bool is_cgroup_asked_for(std::string_view asked, std::string_view path) {
  const size_t first = asked.find(':');
  const size_t second = first == std::string_view::npos ? first : asked.find(':', first + 1);
  if (second == std::string_view::npos) {
    // A relative one lies where the runtime itself does.
    return asked.starts_with('/') ? asked == path : !asked.empty() && path.size() > asked.size() && path.ends_with(asked) &&
                                                        path[path.size() - asked.size() - 1] == '/';
  }
  if (last_folder(path) == asked) return true;  // taken as it is, by a runtime that does not ask systemd
  const std::string_view slice = asked.substr(0, first), prefix = asked.substr(first + 1, second - first - 1), name = asked.substr(second + 1);
  std::string unit(name);
  if (!name.ends_with(".slice")) unit = prefix.empty() ? unit + ".scope" : std::string(prefix) + "-" + unit + ".scope";
  return path == slice_path(slice.empty() ? "system.slice" : slice) + "/" + unit;
}

}  // namespace tidegate
