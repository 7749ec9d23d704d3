// SPDX-License-Identifier: Apache-2.0
// What must outlive the sensor, in a small file that is mapped into memory: a store survives SIGKILL without a system call. Written in turns
// into two slots, each with a checksum, so that a kill between two stores leaves the other one whole.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "records.h"

namespace tidegate {

struct SensorState {
  uint64_t next_sequence = 1;
  uint64_t last_batch = 0;
  uint64_t last_ktime_ns = 0;  // when the last batch was sealed
  uint64_t counters_id = 0;  // kernel's id of the counters map that lost_seen is about
  std::array<uint64_t, TG_KIND_MAX> lost_seen{};  // losses for which numbers were given out
  char boot[64]{};  // the sensor's run
  char kernel_boot[40]{};
};

class StateFile {
 public:
  // Creates the file when it is missing, and locks it. Throws std::system_error; EWOULDBLOCK: another reader has it.
  explicit StateFile(const std::string& path);
  ~StateFile();
  StateFile(const StateFile&) = delete;
  StateFile& operator=(const StateFile&) = delete;

  // The last stored state; nothing in a new file or one that is not a state file.
  const std::optional<SensorState>& found() const { return found_; }
  void store(const SensorState& state);

  // Reads the file of a sensor that may be running. Nothing when there is none, or nothing in it.
  static std::optional<SensorState> read(const std::string& path);

 private:
  struct Slot {
    uint64_t generation;
    SensorState state;
    uint64_t checksum;
  };
  struct Layout {
    uint64_t magic;
    Slot slots[2];
  };
  static constexpr uint64_t MAGIC = 0x31657461'74736774;  // "tgstate1"

  static uint64_t checksum(const Slot& slot);
  static const Slot* newest(const Layout& layout);

  int fd_;
  Layout* layout_;
  uint64_t generation_ = 0;
  std::optional<SensorState> found_;
};

}  // namespace tidegate
