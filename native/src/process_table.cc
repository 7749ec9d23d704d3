// SPDX-License-Identifier: Apache-2.0
#include "process_table.h"

namespace tidegate {

Process* ProcessTable::find(const ProcessKey& key) {
  const auto found = by_key_.find(key);
  return found == by_key_.end() ? nullptr : &slots_[found->second];
}

Process* ProcessTable::find_pid(uint32_t pid) {
  const auto found = by_pid_.find(pid);
  return found == by_pid_.end() ? nullptr : &slots_[found->second];
}

Process* ProcessTable::get(ProcessRef ref) {
  if (ref.slot == ProcessRef::NONE) return nullptr;
  Process& process = slots_[ref.slot];
  return process.used && process.serial == ref.serial ? &process : nullptr;
}

Process& ProcessTable::insert(const ProcessKey& key, uint64_t now_ns) {
  const uint32_t slot = free_slot();
  Process& process = slots_[slot];
  const uint32_t serial = process.serial;
  process = Process{};
  process.key = key;
  process.slot = slot;
  process.serial = serial;
  process.used = true;
  running_++;
  by_key_.emplace(key, slot);

  const auto [entry, is_new] = by_pid_.try_emplace(key.pid, slot);
  if (!is_new) {
    Process& other = slots_[entry->second];
    const bool newer = key.start_ktime_ns != other.key.start_ktime_ns ? key.start_ktime_ns > other.key.start_ktime_ns
                                                                       : key.exec_generation > other.key.exec_generation;
    // A pid names one running image: whichever of the two is older has ended, whether or not a record said so.
    if (newer) entry->second = slot;
    end(newer ? other : process, now_ns);
  }
  return process;
}

void ProcessTable::set_parent(Process& process, ProcessRef parent) {
  Process* const next = get(parent);
  if (next == &process) return;
  if (next != nullptr) next->children++;
  Process* const previous = get(process.parent);
  process.parent = next == nullptr ? ProcessRef{} : parent;
  if (previous != nullptr && --previous->children == 0 && previous->expired) free_process(*previous);
}

void ProcessTable::end(Process& process, uint64_t now_ns) {
  if (process.ended) return;
  process.ended = true;
  running_--;
  ended_.push_back({ref(process), now_ns});
}

void ProcessTable::expire(uint64_t now_ns) {
  while (!ended_.empty() && ended_.front().at_ns + ENDED_KEEP_NS <= now_ns) {
    Process* const process = get(ended_.front().process);
    ended_.pop_front();
    if (process == nullptr) continue;
    process->expired = true;
    if (process->children == 0) free_process(*process);
  }
}

void ProcessTable::end_unseen(uint64_t round, uint64_t before_ns, uint64_t now_ns) {
  for (Process& process : slots_) {
    if (process.used && !process.ended && process.round != round && process.key.start_ktime_ns < before_ns) end(process, now_ns);
  }
}

uint32_t ProcessTable::free_slot() {
  if (free_.empty() && slots_.size() >= PROCESSES_MAX) evict();
  if (!free_.empty()) {
    const uint32_t slot = free_.back();
    free_.pop_back();
    return slot;
  }
  slots_.emplace_back();
  return static_cast<uint32_t>(slots_.size() - 1);
}

void ProcessTable::evict() {
  evicted_++;
  while (!ended_.empty()) {
    Process* const process = get(ended_.front().process);
    ended_.pop_front();
    if (process == nullptr) continue;
    free_process(*process);
    return;
  }
  // Nothing left that ended of late: a clock hand goes round over running processes and old ancestors.
  hand_ = (hand_ + 1) % slots_.size();
  free_process(slots_[hand_]);
}

void ProcessTable::free_process(Process& process) {
  for (Process* next = &process; next != nullptr;) {
    Process* const parent = get(next->parent);
    if (!next->ended) running_--;
    by_key_.erase(next->key);
    const auto pid = by_pid_.find(next->key.pid);
    if (pid != by_pid_.end() && pid->second == next->slot) by_pid_.erase(pid);
    next->used = false;
    next->serial++;
    next->image.reset();
    next->entry.reset();
    free_.push_back(next->slot);
    next = parent != nullptr && --parent->children == 0 && parent->expired ? parent : nullptr;
  }
}

}  // namespace tidegate
