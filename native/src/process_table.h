// SPDX-License-Identifier: Apache-2.0
// Every process image an event can refer to: those that run, those that ended a short while ago, and the ancestors of both. Bounded: at the
// bound the entry that ended longest ago goes first, then any other, and what referred to it simply loses its ancestor.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "records.h"
#include "schema.h"

namespace tidegate {

using Origin = schema::ProcessOrigin;

// What execve set, shared by a process and those it forked: the encoded fields binary, arguments, cwd and kernel_thread of Process.
struct Image {
  std::string brief;
};

// With what a lineage entered a container: the encoded fields entry_arguments, entry_arguments_truncated and entry_terminal of Process.
struct Entry {
  std::string fields;
  // It runs in this mount namespace, which is that of the process it came from: a runtime on its way in, whose next image is what it was asked for. 0: none.
  uint32_t outside_namespace = 0;
};

// Names an entry; stale once the entry was freed, which get() notices.
struct ProcessRef {
  static constexpr uint32_t NONE = UINT32_MAX;
  uint32_t slot = NONE;
  uint32_t serial = 0;
};

struct Process {
  ProcessKey key{};
  ProcessRef parent;  // who forked it
  ProcessKey kernel_parent{};  // the parent that the kernel names, where that is another process; else all 0
  std::shared_ptr<const Image> image;
  std::shared_ptr<const Entry> entry;  // of one that entered
  uint64_t cgroup_id = 0;
  uint64_t batch_stamp = 0;  // the batch whose table holds it, as batch_id
  uint64_t round = 0;  // last synchronisation that saw it
  uint32_t batch_id = 0;
  bool batch_cut = false;  // the entry there has no parent because that was left out
  uint32_t uid = 0;
  uint32_t mount_namespace = 0;  // of its image; 0: not known
  uint32_t slot = 0;
  uint32_t serial = 1;
  uint32_t children = 0;
  Origin origin = Origin::UNKNOWN;
  bool used = false;
  bool ended = false;  // exited, or replaced by the next image
  bool expired = false;  // ended long ago: goes with its last child
  bool exited = false;  // its exit record was seen
  bool inside = false;  // its image was loaded inside its container, or it descends from one that was
  bool entered = false;
};

class ProcessTable {
 public:
  static constexpr size_t PROCESSES_MAX = 65'536;
  // Sockets close and records of other CPUs arrive after the exit of their process.
  static constexpr uint64_t ENDED_KEEP_NS = 30'000'000'000;

  Process* find(const ProcessKey& key);
  // The newest image of the process that has this pid now, or had it last.
  Process* find_pid(uint32_t pid);
  Process* get(ProcessRef ref);
  static ProcessRef ref(const Process& process) { return {process.slot, process.serial}; }

  // The key must not be in the table. An earlier image of the pid ends with this. Pointers to other entries stay valid, unless they are evicted.
  Process& insert(const ProcessKey& key, uint64_t now_ns);
  void set_parent(Process& process, ProcessRef parent);
  void end(Process& process, uint64_t now_ns);
  // Frees what ended longer than ENDED_KEEP_NS ago and has no children.
  void expire(uint64_t now_ns);

  // Ends every running process that started before `before_ns` and was not seen in `round`.
  void end_unseen(uint64_t round, uint64_t before_ns, uint64_t now_ns);

  size_t size() const { return by_key_.size(); }
  size_t running() const { return running_; }
  uint64_t evicted() const { return evicted_; }

 private:
  struct Ended {
    ProcessRef process;
    uint64_t at_ns;
  };

  uint32_t free_slot();
  void evict();
  void free_process(Process& process);

  std::deque<Process> slots_;
  std::vector<uint32_t> free_;
  std::unordered_map<ProcessKey, uint32_t, ProcessKeyHash, ProcessKeyEqual> by_key_;
  std::unordered_map<uint32_t, uint32_t> by_pid_;
  std::deque<Ended> ended_;
  uint32_t hand_ = 0;
  size_t running_ = 0;
  uint64_t evicted_ = 0;
};

}  // namespace tidegate
