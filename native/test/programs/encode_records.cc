// SPDX-License-Identifier: Apache-2.0
// Puts records through a ring buffer, as the kernel lays one out, and through the encoder; for tests. Standard input: records, each with its
// struct tg_header, whose size counts. Standard output: one EventBatch. Numbers of events and malformed records on standard error.
#include <linux/bpf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../../src/batch.h"
#include "../../src/event_encoder.h"
#include "../../src/ring_reader.h"

using namespace tidegate;

namespace {

constexpr size_t RING_BYTES = 1 << 16;

std::vector<char> read_input() {
  std::vector<char> input;
  char buffer[65536];
  for (size_t count; (count = fread(buffer, 1, sizeof(buffer), stdin)) > 0;) input.insert(input.end(), buffer, buffer + count);
  return input;
}

// The kernel's side of a ring.
class RingWriter {
 public:
  RingWriter() : fd_(memfd_create("ring", MFD_CLOEXEC)), page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
    if (ftruncate(fd_, static_cast<off_t>(2 * page_ + RING_BYTES)) != 0) abort();
    bytes_ = static_cast<char*>(mmap(nullptr, 2 * page_ + RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0));
  }
  int fd() const { return fd_; }

  // False when there is no room.
  bool write(const char* record, uint32_t length, uint32_t bits) {
    const uint64_t total = (length + BPF_RINGBUF_HDR_SZ + 7) & ~uint64_t{7};
    const uint64_t consumed = *reinterpret_cast<const uint64_t*>(bytes_);
    if (produced_ + total - consumed > RING_BYTES) return false;
    const uint32_t word[2] = {length | bits, 0};
    put(produced_, reinterpret_cast<const char*>(word), sizeof(word));
    put(produced_ + BPF_RINGBUF_HDR_SZ, record, length);
    produced_ += total;
    *reinterpret_cast<uint64_t*>(bytes_ + page_) = produced_;
    return true;
  }

 private:
  void put(uint64_t at, const char* from, size_t length) {
    for (size_t index = 0; index < length; index++) bytes_[2 * page_ + ((at + index) & (RING_BYTES - 1))] = from[index];
  }

  int fd_;
  size_t page_;
  char* bytes_;
  uint64_t produced_ = 0;
};

}  // namespace

int main() {
  const std::vector<char> input = read_input();
  RingWriter writer;
  RingReader reader(writer.fd(), RING_BYTES);
  ProcessTable processes;
  const RuntimeRecords records("/nonexistent");
  CgroupTable cgroups("/nonexistent", "", records, [](uint32_t) { return 0; });
  Batch batch("node", "boot", SIZE_MAX, processes, cgroups);
  uint64_t events = 0, malformed = 0;

  const auto encode = [&](const tg_header& record) {
    ExecStrings strings;
    const bool is_exec = record.type == TG_RECORD_EXEC;
    if (!is_event(record) || (is_exec && !exec_strings(reinterpret_cast<const tg_exec&>(record), strings))) {
      malformed++;
      return;
    }
    Process* process = processes.find(record.process);
    if (process == nullptr) process = &processes.insert(record.process, 0);
    ProtobufWriter image;
    if (is_exec) {
      const auto& exec = reinterpret_cast<const tg_exec&>(record);
      encode_image(image, {strings.binary, strings.cwd, strings.arguments, (exec.flags & TG_EXEC_ARGUMENTS_TRUNCATED) != 0, false},
                   TG_ARGUMENTS_MAX);
    }
    const uint32_t id = batch.add_process(*process, image.view());
    const size_t body = batch.events().open(field::EventBatch::EVENTS);
    encode_event(batch.events(), record, id, ++events);
    batch.events().close(body);
    batch.count_event(events, events, 0);
  };
  const auto drain = [&] {
    reader.snapshot();
    while (const tg_header* record = reader.peek()) {
      encode(*record);
      reader.advance();
    }
    reader.release();
  };

  const std::string discarded(100, 'x');
  for (size_t at = 0; at + sizeof(uint32_t) <= input.size();) {
    uint32_t size;
    memcpy(&size, input.data() + at, sizeof(size));
    if (size < sizeof(size) || size > input.size() - at) return 1;
    while (!writer.write(input.data() + at, size, 0)) drain();
    writer.write(discarded.data(), static_cast<uint32_t>(at % discarded.size()), BPF_RINGBUF_DISCARD_BIT);
    at += size;
  }
  drain();
  // A writer that is not done stops the reader there.
  while (!writer.write(discarded.data(), 80, BPF_RINGBUF_BUSY_BIT)) drain();
  reader.snapshot();
  if (reader.peek() != nullptr || !reader.busy()) return 1;

  const std::unique_ptr<SealedBatch> sealed = batch.encode(0, batch.parts(), 1, 0);
  fwrite(sealed->payload.get(), 1, sealed->size, stdout);
  fprintf(stderr, "%llu %llu\n", static_cast<unsigned long long>(events), static_cast<unsigned long long>(malformed + reader.malformed()));
  return 0;
}
