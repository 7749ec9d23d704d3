// SPDX-License-Identifier: Apache-2.0
// One EventBatch in the making: its tables and its events in three buffers, joined when it is sealed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cgroup_table.h"
#include "process_table.h"
#include "protobuf_writer.h"

struct ZSTD_CCtx_s;

namespace tidegate {

struct SealedBatch {
  std::unique_ptr<uint8_t[]> payload;
  size_t size = 0;
  size_t plain_size = 0;  // before compression
  uint64_t number = 0;
  uint64_t events = 0;
  uint64_t first_sequence = 0, last_sequence = 0;
  bool zstd = false;
};

class Batch {
 public:
  // Bounds what one event can add: the ancestors of a process, and their encoded bytes. Of the last of them it is said that further ones are left out.
  static constexpr size_t ANCESTORS_MAX = 32;
  static constexpr size_t ANCESTORS_MAX_BYTES = 32 * 1024;

  Batch(std::string node, std::string boot, size_t part_max_bytes, ProcessTable& processes, CgroupTable& cgroups)
      : node_(std::move(node)), boot_(std::move(boot)), part_max_bytes_(part_max_bytes), processes_(processes), cgroups_(cgroups) {}

  bool empty() const { return events_ == 0; }
  size_t events_count() const { return events_; }
  size_t tables_size() const { return container_bytes_.size() + process_bytes_.size(); }
  size_t size() const { return tables_size() + event_bytes_.size(); }
  uint64_t opened_ns() const { return opened_ns_; }

  // Puts the process, its container and all its ancestors into the tables, where they are not yet, and returns its id in this batch.
  // full_image: what to write of the process's image instead of the brief form. A process with an exec event must not be in the batch before.
  uint32_t add_process(Process& process, std::string_view full_image = {});
  bool holds(const Process& process) const { return process.batch_stamp == stamp_; }
  // With its ancestors. One that was the last of another's is put in again, with its own.
  bool holds_whole(const Process& process) const { return holds(process) && !process.batch_cut; }

  // Where to write the next event, which accounts for the numbers first..last.
  ProtobufWriter& events() { return event_bytes_; }
  void count_event(uint64_t first_sequence, uint64_t last_sequence, uint64_t now_ns);

  // Forgets whatever was added since mark() and not counted, when it made the batch too large.
  struct Mark {
    size_t containers, processes, events;
    uint32_t last_container, last_process;
  };
  Mark mark();
  void rollback(const Mark& mark);

  // Its events in parts of part_max_bytes at most, or of a single event.
  size_t parts() const { return parts_.size(); }
  // The events of so many parts, and all tables: a batch by itself.
  std::unique_ptr<SealedBatch> encode(size_t first_part, size_t parts, uint64_t number, int64_t wall_offset_ns) const;
  // Begins the next batch.
  void clear();

 private:
  struct Part {
    size_t begin, end;  // of its bytes
    uint64_t events;
    uint64_t first_sequence, last_sequence;
  };

  uint32_t add_container(uint64_t cgroup_id);
  void encode_process(Process& process, uint32_t parent_id, bool cut, std::string_view image);

  const std::string node_, boot_;
  const size_t part_max_bytes_;
  ProcessTable& processes_;
  CgroupTable& cgroups_;
  ProtobufWriter container_bytes_, process_bytes_, event_bytes_;
  std::vector<Process*> chain_;
  std::vector<ProcessRef> added_processes_;  // since mark()
  std::vector<std::shared_ptr<Container>> added_containers_;
  uint64_t stamp_ = 1;  // differs from batch to batch: nothing needs unmarking when one is sealed
  uint64_t opened_ns_ = 0;
  uint64_t events_ = 0;
  std::vector<Part> parts_;
  uint32_t last_process_ = 0, last_container_ = 0;
};

// Compresses the batch's payload at zstd level 1, unless that saves too little to be worth the reader's work.
class Compressor {
 public:
  Compressor();
  ~Compressor();
  Compressor(const Compressor&) = delete;
  Compressor& operator=(const Compressor&) = delete;
  void compress(SealedBatch& batch);

 private:
  static constexpr size_t WORTH_IT_BYTES = 512;
  ZSTD_CCtx_s* context_;
};

}  // namespace tidegate
