// SPDX-License-Identifier: Apache-2.0
// Random cgroups, most of them named nearly as runtimes name theirs, with a fixed seed; for tests. Whatever the names: the outermost container wins,
// nobody but root makes a pod, and no id leaves its folder.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "../../src/cgroup_table.h"

using namespace tidegate;

#define CHECK(condition)                                                                   \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      fprintf(stderr, "line %d: %s, of %s\n", __LINE__, #condition, path.c_str());         \
      exit(1);                                                                             \
    }                                                                                      \
  } while (0)

namespace {

constexpr int ROUNDS = 60'000;
constexpr uint32_t USER = 1000;
constexpr const char* PIECES[] = {
    "kubepods", "besteffort", "burstable", "kubepods.slice", "kubepods-besteffort.slice", "pod", "a1b2c3d4-0000-4000-8000-00000000beef",
    "kubepods-besteffort-poda1b2c3d4_0000_4000_8000_00000000beef.slice", "0123456789abcdef0123456789abcdef", ".slice", ".scope", ".service",
    "cri-containerd-", "libpod-payload-", "libpod-", "docker", "crio-", "-", ":", "cri-containerd", "lxc.payload.", "lxc", "payload", "ecs", "buildkit",
    "systemd-nspawn@", "machine-", "\\x2d", "\\x2f", "..", ".", "kx3y9q0z1w2v4u5t6s7r8p9o0", "web", "user@1000.service",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "\xff", "a", " ",
};

// Ways of whole paths that are a container's.
constexpr const char* WAYS[][4] = {
    {"kubepods", "besteffort", "poda1b2c3d4-0000-4000-8000-00000000beef", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
    {"kubepods.slice", "kubepods-besteffort.slice", "kubepods-besteffort-poda1b2c3d4_0000_4000_8000_00000000beef.slice",
     "cri-containerd-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope"},
    {"system.slice", "web.service", "libpod-payload-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "a"},
    {"machine.slice", "systemd-nspawn@web.service", "payload", "init.scope"},
    {"lxc", "web", "docker", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
};

std::string folder(std::mt19937& random, size_t way, size_t level) {
  std::string name;
  if (level < 4 && random() % 8 != 0) {
    name = WAYS[way][level];
  } else {
    for (size_t count = 1 + random() % 3; count-- > 0;) name += PIECES[random() % std::size(PIECES)];
  }
  if (random() % 16 == 0 && !name.empty()) name[random() % name.size()] = static_cast<char>(' ' + random() % 95);
  for (char& letter : name) {
    if (letter == '/') letter = '-';
  }
  return name;
}

}  // namespace

int main() {
  std::mt19937 random(20'250'103);
  const RuntimeRecords records("/nonexistent");
  size_t containers = 0, pods = 0, users = 0;
  uint64_t id = 1;
  for (int round = 0; round < ROUNDS; round++) {
    CgroupTable table("/nonexistent", "", records, [](uint32_t) { return 0; });
    std::string path;
    std::shared_ptr<Container> above;
    // From some depth on a user makes what lies below.
    const size_t depth = 1 + random() % 6, of_root = random() % 7, way = random() % std::size(WAYS);
    for (size_t level = 0; level < depth; level++) {
      path += "/" + folder(random, way, level);
      const uint32_t uid = level < of_root ? 0 : USER;
      // Names are read without more bytes behind them: the sanitizer sees a read too far.
      const std::vector<char> exact(path.begin(), path.end());
      const std::string_view text(exact.data(), exact.size());
      table.made(++id, text, uid);
      const std::shared_ptr<Container> container = table.container(id);
      for (const std::string& each : container_ids(text)) {
        CHECK(!each.empty() && each.find('/') == std::string::npos && each.front() != '.' && each.size() <= 128);
      }
      if (container != nullptr) {
        CHECK(is_cgroup_within(path, container->path));
        CHECK(container->by_root || container->pod_uid.empty() || (above != nullptr && above->pod_uid == container->pod_uid));
        CHECK(container->container_id.empty() ? !container->pod_uid.empty() : !container->record);
        containers += !container->container_id.empty();
        pods += !container->pod_uid.empty();
        users += !container->by_root;
      }
      if (above != nullptr) {
        CHECK(container != nullptr && container->pod_uid == above->pod_uid);
        if (!above->container_id.empty()) CHECK(container == above);
      }
      above = container;
      is_cgroup_asked_for(folder(random, way, 9) + ":" + folder(random, way, 9) + ":" + folder(random, way, 9), text);
      is_cgroup_asked_for(folder(random, way, 9), text);
    }
  }
  const std::string path = "all rounds";
  CHECK(containers > 1000 && pods > 1000 && users > 100);
  // What systemd makes of what a runtime asked it for.
  CHECK(is_cgroup_asked_for("a-b-c.slice:crio:x", "/a.slice/a-b.slice/a-b-c.slice/crio-x.scope"));
  CHECK(is_cgroup_asked_for(":crio:x", "/system.slice/crio-x.scope") && is_cgroup_asked_for("a.slice::x", "/a.slice/x.scope"));
  CHECK(is_cgroup_asked_for("/a/b", "/a/b") && !is_cgroup_asked_for("/a/b", "/c/a/b") && is_cgroup_asked_for("a/b", "/c/a/b"));
  CHECK(!is_cgroup_asked_for("a/b", "/ca/b") && !is_cgroup_asked_for("", "/a") && !is_cgroup_asked_for("a-b.slice:crio:x", "/a-b.slice/crio-x.scope"));
  return 0;
}
