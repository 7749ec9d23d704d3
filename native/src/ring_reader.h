// SPDX-License-Identifier: Apache-2.0
// Reads a BPF ring buffer in place. libbpf's ring_buffer frees each record as soon as it was seen; here records stay in the kernel's memory
// until release(), so that a sensor killed with a half-filled batch finds them again, and two rings can be read in step.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "records.h"

namespace tidegate {

class RingReader {
 public:
  // Maps the ring of `map_fd`, whose data area has `ring_bytes` (a power of two). Throws std::system_error.
  RingReader(int map_fd, size_t ring_bytes);
  ~RingReader();
  RingReader(const RingReader&) = delete;
  RingReader& operator=(const RingReader&) = delete;

  int fd() const { return fd_; }

  // Fixes how far peek() goes: to what was reserved by now.
  void snapshot() { limit_ = producer_->load(std::memory_order_acquire); }

  // The next record before the snapshot; null at the snapshot, and at a record whose writer is not done (then busy() is true).
  // Valid until advance(), or the next peek(). Records too short for their header are skipped and counted.
  const tg_header* peek();
  bool busy() const { return next_ < limit_; }
  // Past the record peek() returned.
  void advance() { next_ = after_; }

  // Gives everything before the next record back to the kernel.
  void release() {
    if (released_ == next_) return;
    released_ = next_;
    consumer_->store(next_, std::memory_order_release);
  }
  size_t held_bytes() const { return next_ - released_; }
  size_t ring_bytes() const { return ring_bytes_; }
  uint64_t malformed() const { return malformed_; }

 private:
  // A copy of the record that starts at the end of the data and goes on at its beginning.
  const tg_header* join(size_t offset, size_t length);

  int fd_;
  size_t ring_bytes_;
  size_t page_bytes_;
  std::atomic<uint64_t>* consumer_;
  const std::atomic<uint64_t>* producer_;
  const char* data_;
  void* consumer_page_;
  void* producer_pages_;
  uint64_t limit_;
  uint64_t next_;
  uint64_t after_;
  uint64_t released_;
  uint64_t malformed_ = 0;
  std::vector<uint64_t> joined_;
};

}  // namespace tidegate
