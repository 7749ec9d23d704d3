// SPDX-License-Identifier: Apache-2.0
#include "state_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <system_error>

namespace tidegate {
namespace {

[[noreturn]] void fail(const std::string& path, int fd) {
  const int error = errno;
  if (fd >= 0) close(fd);
  throw std::system_error(error, std::generic_category(), "state file " + path);
}

}  // namespace

StateFile::StateFile(const std::string& path) : fd_(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
  if (fd_ < 0 || flock(fd_, LOCK_EX | LOCK_NB) != 0 || ftruncate(fd_, sizeof(Layout)) != 0) fail(path, fd_);
  void* const memory = mmap(nullptr, sizeof(Layout), PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (memory == MAP_FAILED) fail(path, fd_);
  layout_ = static_cast<Layout*>(memory);
  if (const Slot* slot = newest(*layout_)) {
    generation_ = slot->generation;
    found_ = slot->state;
  }
  layout_->magic = MAGIC;
}

StateFile::~StateFile() {
  munmap(layout_, sizeof(Layout));
  close(fd_);
}

void StateFile::store(const SensorState& state) {
  generation_++;
  Slot& slot = layout_->slots[generation_ % 2];
  slot.generation = generation_;
  slot.state = state;
  // The checksum goes last: until it fits, the other slot counts.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  slot.checksum = checksum(slot);
}

std::optional<SensorState> StateFile::read(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    if (errno == ENOENT) return std::nullopt;
    fail(path, fd);
  }
  Layout layout{};
  const ssize_t size = pread(fd, &layout, sizeof(layout), 0);
  if (size < 0) fail(path, fd);
  close(fd);
  const Slot* const slot = size == sizeof(layout) ? newest(layout) : nullptr;
  return slot == nullptr ? std::nullopt : std::optional(slot->state);
}

// FNV-1a.
uint64_t StateFile::checksum(const Slot& slot) {
  uint64_t hash = 0xcbf29ce484222325;
  const auto* bytes = reinterpret_cast<const unsigned char*>(&slot);
  for (size_t index = 0; index < offsetof(Slot, checksum); index++) hash = (hash ^ bytes[index]) * 0x100000001b3;
  return hash;
}

const StateFile::Slot* StateFile::newest(const Layout& layout) {
  const Slot* best = nullptr;
  if (layout.magic != MAGIC) return nullptr;
  for (const Slot& slot : layout.slots) {
    if (slot.generation == 0 || slot.checksum != checksum(slot)) continue;
    if (best == nullptr || slot.generation > best->generation) best = &slot;
  }
  return best;
}

}  // namespace tidegate
