// SPDX-License-Identifier: Apache-2.0
// Holds the process and cgroup tables to their promises, at their bounds and under random use with a fixed seed; for tests.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "../../src/cgroup_table.h"
#include "../../src/process_table.h"

using namespace tidegate;

#define CHECK(condition)                                               \
  do {                                                                 \
    if (!(condition)) {                                                \
      fprintf(stderr, "line %d: %s\n", __LINE__, #condition);          \
      exit(1);                                                         \
    }                                                                  \
  } while (0)

namespace {

ProcessKey key(uint32_t pid, uint64_t start, uint64_t generation = 0) {
  ProcessKey made{};
  made.pid = pid;
  made.start_ktime_ns = start;
  made.exec_generation = generation;
  return made;
}

void pid_reuse() {
  ProcessTable table;
  Process& first = table.insert(key(7, 100), 1);
  const ProcessRef old = ProcessTable::ref(first);
  Process& second = table.insert(key(7, 200), 2);
  CHECK(first.ended && !second.ended);
  CHECK(table.find_pid(7) == &second);
  CHECK(table.find(key(7, 100)) == &first && table.get(old) == &first);
  // A record of the earlier use that comes late does not take the pid back.
  Process& image = table.insert(key(7, 100, 1), 3);
  CHECK(image.ended && table.find_pid(7) == &second && table.running() == 1);
}

void kept_while_needed() {
  ProcessTable table;
  Process& parent = table.insert(key(1, 1), 0);
  Process& child = table.insert(key(2, 2), 0);
  const ProcessRef parent_ref = ProcessTable::ref(parent);
  table.set_parent(child, parent_ref);
  table.end(parent, 10);
  table.expire(10 + ProcessTable::ENDED_KEEP_NS);
  CHECK(table.get(parent_ref) == &parent);
  table.end(child, 20);
  table.expire(19 + ProcessTable::ENDED_KEEP_NS);
  CHECK(table.size() == 2);
  table.expire(20 + ProcessTable::ENDED_KEEP_NS);
  CHECK(table.size() == 0 && table.get(parent_ref) == nullptr);
}

void bound() {
  constexpr uint32_t MORE = 10'000;
  ProcessTable table;
  std::vector<ProcessRef> refs;
  for (uint32_t pid = 1; pid <= ProcessTable::PROCESSES_MAX + MORE; pid++) {
    Process& process = table.insert(key(pid, pid), pid);
    if (!refs.empty()) table.set_parent(process, refs[refs.size() / 2]);
    refs.push_back(ProcessTable::ref(process));
    // One in two ends: those go first.
    if (pid % 2 == 0) table.end(process, pid);
  }
  CHECK(table.size() == ProcessTable::PROCESSES_MAX && table.evicted() == MORE);
  for (uint32_t index = 0; index < refs.size(); index++) CHECK((table.get(refs[index]) == nullptr) == (index < 2 * MORE && index % 2 == 1));
  // And when all run, some of those.
  for (uint32_t pid = 1'000'000; pid < 1'000'000 + ProcessTable::PROCESSES_MAX; pid++) table.insert(key(pid, pid), pid);
  CHECK(table.size() == ProcessTable::PROCESSES_MAX && table.running() == ProcessTable::PROCESSES_MAX);
}

// Forks, execs, exits and reuses of few pids: whatever came, in the end nothing is left.
void random_use() {
  std::mt19937 random(20'250'101);
  ProcessTable table;
  std::vector<ProcessRef> live;
  uint64_t now = 1;
  for (int step = 0; step < 300'000; step++) {
    now += random() % 10'000'000;
    const auto pick = [&]() -> Process* { return live.empty() ? nullptr : table.get(live[random() % live.size()]); };
    Process* const chosen = pick();
    switch (random() % 4) {
      case 0: {
        Process& made = table.insert(key(1 + random() % 500, now), now);
        if (chosen != nullptr) table.set_parent(made, ProcessTable::ref(*chosen));
        live.push_back(ProcessTable::ref(made));
        break;
      }
      case 1: {
        if (chosen == nullptr || table.find(key(chosen->key.pid, chosen->key.start_ktime_ns, chosen->key.exec_generation + 1))) break;
        const ProcessRef parent = chosen->parent;
        Process& image = table.insert(key(chosen->key.pid, chosen->key.start_ktime_ns, chosen->key.exec_generation + 1), now);
        table.set_parent(image, parent);
        live.push_back(ProcessTable::ref(image));
        break;
      }
      case 2:
        if (chosen != nullptr) table.end(*chosen, now);
        break;
      default:
        table.expire(now);
    }
    if (live.size() > 5000) live.erase(live.begin(), live.begin() + 2500);
  }
  CHECK(table.evicted() == 0 && table.size() > 0);
  table.end_unseen(1, now + 1, now);
  table.expire(now + ProcessTable::ENDED_KEEP_NS);
  CHECK(table.size() == 0 && table.running() == 0);
}

void cgroups() {
  const RuntimeRecords records("/nonexistent");
  CgroupTable table("/nonexistent", "", records, [](uint32_t) { return 0; });
  const std::string id(64, 'a');
  table.made(1, "/docker/" + id, 0);
  const std::shared_ptr<Container> container = table.container(1);
  CHECK(container != nullptr && container->runtime == "docker");
  table.removed(1, 5);
  table.expire(4 + CgroupTable::REMOVED_KEEP_NS);
  CHECK(table.container(1) == container);
  table.expire(5 + CgroupTable::REMOVED_KEEP_NS);
  CHECK(table.size() == 0 && table.container(1) == nullptr);
  for (uint64_t next = 2; next < 2 + 2 * CgroupTable::CGROUPS_MAX; next++) {
    table.made(next, "/docker/" + id + "/" + std::to_string(next), 0);
    if (next % 3 == 0) table.removed(next, 6);
  }
  CHECK(table.size() <= CgroupTable::CGROUPS_MAX && table.evicted() >= CgroupTable::CGROUPS_MAX);
  table.expire(6 + CgroupTable::REMOVED_KEEP_NS);
  CHECK(table.container(2 * CgroupTable::CGROUPS_MAX) != nullptr);
}

void cgroup_versions() {
  const RuntimeRecords records("/nonexistent");
  CgroupTable table("/nonexistent", "", records, [](uint32_t) { return 0; });
  // A container's cgroups in v1 and v2 are one container; a new one at the same path is another.
  const std::string id(64, 'b');
  table.made(1, "/docker/" + id, 0);
  table.made(1 | TG_CGROUP_V1, "/docker/" + id, 0);
  table.made(2 | TG_CGROUP_V1, "/docker/" + id + "/nested", 0);
  CHECK(table.container(1) == table.container(1 | TG_CGROUP_V1) && table.container(1) == table.container(2 | TG_CGROUP_V1));
  table.made(3 | TG_CGROUP_V1, "/docker/" + id, 0);
  CHECK(table.container(3 | TG_CGROUP_V1) != table.container(1));
}

}  // namespace

int main() {
  pid_reuse();
  kept_while_needed();
  bound();
  random_use();
  cgroups();
  cgroup_versions();
  return 0;
}
