// SPDX-License-Identifier: Apache-2.0
#include "ring_reader.h"

#include <linux/bpf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

namespace tidegate {

RingReader::RingReader(int map_fd, size_t ring_bytes) : fd_(map_fd), ring_bytes_(ring_bytes), page_bytes_(sysconf(_SC_PAGESIZE)) {
  // Page 0 holds the consumer's position, page 1 the producer's, then comes the data. The kernel would show the data twice in a row, so that no
  // record is in two pieces; but each showing counts as this process's memory, and putting one record a round together costs nothing.
  consumer_page_ = mmap(nullptr, page_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, map_fd, 0);
  if (consumer_page_ == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap of a ring buffer's consumer page");
  producer_pages_ = mmap(nullptr, page_bytes_ + ring_bytes, PROT_READ, MAP_SHARED, map_fd, static_cast<off_t>(page_bytes_));
  if (producer_pages_ == MAP_FAILED) {
    const int error = errno;
    munmap(consumer_page_, page_bytes_);
    throw std::system_error(error, std::generic_category(), "mmap of a ring buffer's data");
  }
  static_assert(std::atomic<uint64_t>::is_always_lock_free && sizeof(std::atomic<uint64_t>) == sizeof(uint64_t));
  consumer_ = static_cast<std::atomic<uint64_t>*>(consumer_page_);
  producer_ = static_cast<const std::atomic<uint64_t>*>(producer_pages_);
  data_ = static_cast<const char*>(producer_pages_) + page_bytes_;
  next_ = after_ = limit_ = released_ = consumer_->load(std::memory_order_acquire);
}

RingReader::~RingReader() {
  munmap(producer_pages_, page_bytes_ + ring_bytes_);
  munmap(consumer_page_, page_bytes_);
}

const tg_header* RingReader::peek() {
  while (next_ < limit_) {
    const size_t offset = next_ & (ring_bytes_ - 1);
    const char* record = data_ + offset;
    const uint32_t word = reinterpret_cast<const std::atomic<uint32_t>*>(record)->load(std::memory_order_acquire);
    if (word & BPF_RINGBUF_BUSY_BIT) return nullptr;
    const uint32_t length = word & ~(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);
    after_ = next_ + ((length + BPF_RINGBUF_HDR_SZ + 7) & ~uint64_t{7});
    if (!(word & BPF_RINGBUF_DISCARD_BIT)) {
      const auto* header = reinterpret_cast<const tg_header*>(record + BPF_RINGBUF_HDR_SZ);
      if (offset + BPF_RINGBUF_HDR_SZ + length > ring_bytes_) header = join(offset + BPF_RINGBUF_HDR_SZ, length);
      if (length >= sizeof(tg_header) && header->size >= sizeof(tg_header) && header->size <= length) return header;
      malformed_++;
    }
    next_ = after_;
  }
  return nullptr;
}

const tg_header* RingReader::join(size_t offset, size_t length) {
  joined_.resize((length + sizeof(uint64_t) - 1) / sizeof(uint64_t));
  auto* const to = reinterpret_cast<char*>(joined_.data());
  const size_t first = ring_bytes_ - offset;
  memcpy(to, data_ + offset, first);
  memcpy(to + first, data_, length - first);
  return reinterpret_cast<const tg_header*>(to);
}

}  // namespace tidegate
