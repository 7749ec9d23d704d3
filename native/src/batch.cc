// SPDX-License-Identifier: Apache-2.0
#include "batch.h"

#include <zstd.h>

#include <algorithm>
#include <new>

#include "event_encoder.h"

namespace tidegate {

uint32_t Batch::add_process(Process& process, std::string_view full_image) {
  if (holds_whole(process)) return process.batch_id;
  chain_.clear();
  uint32_t parent_id = 0;
  size_t bytes = 0;
  bool cut = false;
  for (Process* next = &process; next != nullptr; next = processes_.get(next->parent)) {
    if (holds_whole(*next)) {
      parent_id = next->batch_id;
      break;
    }
    bytes += next->image ? next->image->brief.size() : 0;
    cut = chain_.size() > ANCESTORS_MAX || (bytes > ANCESTORS_MAX_BYTES && !chain_.empty());
    if (cut) break;
    chain_.push_back(next);
  }
  // From the oldest ancestor down, so that an entry's parent always stands before it.
  for (auto next = chain_.rbegin(); next != chain_.rend(); ++next) {
    const bool full = *next == &process && !full_image.empty();
    const std::string_view brief = (*next)->image ? std::string_view((*next)->image->brief) : std::string_view();
    encode_process(**next, parent_id, cut && *next == chain_.back(), full ? full_image : brief);
    parent_id = (*next)->batch_id;
  }
  return process.batch_id;
}

void Batch::encode_process(Process& process, uint32_t parent_id, bool cut, std::string_view image) {
  process.batch_stamp = stamp_;
  process.batch_id = ++last_process_;
  process.batch_cut = cut;
  added_processes_.push_back(ProcessTable::ref(process));
  const uint32_t container_id = add_container(process.cgroup_id);

  ProtobufWriter& out = process_bytes_;
  const size_t body = out.open(field::EventBatch::PROCESSES);
  out.varint(field::Process::ID, process.batch_id);
  out.varint(field::Process::PARENT, parent_id);
  out.varint(field::Process::CONTAINER, container_id);
  out.bytes(field::Process::EXEC_ID, exec_id(node_, process.key));
  out.varint(field::Process::PID, process.key.pid);
  out.varint(field::Process::UID, process.uid);
  out.raw(image);
  out.varint(field::Process::START_KTIME_NS, process.key.start_ktime_ns);
  out.varint(field::Process::ORIGIN, number(process.origin));
  out.varint(field::Process::ENTERED, process.entered);
  if (process.entered && process.entry) out.raw(process.entry->fields);
  if (process.kernel_parent.pid != 0) {
    out.bytes(field::Process::KERNEL_PARENT_EXEC_ID, exec_id(node_, process.kernel_parent));
    out.varint(field::Process::KERNEL_PARENT_PID, process.kernel_parent.pid);
  }
  out.varint(field::Process::ANCESTORS_CUT, cut);
  out.close(body);
}

uint32_t Batch::add_container(uint64_t cgroup_id) {
  const std::shared_ptr<Container> container = cgroups_.container(cgroup_id);
  if (container == nullptr) return 0;
  if (container->batch_stamp == stamp_) return container->batch_id;
  container->batch_stamp = stamp_;
  container->batch_id = ++last_container_;
  added_containers_.push_back(container);

  cgroups_.describe(*container);
  ProtobufWriter& out = container_bytes_;
  const size_t body = out.open(field::EventBatch::CONTAINERS);
  out.varint(field::Container::ID, container->batch_id);
  out.bytes(field::Container::CONTAINER_ID, container->container_id);
  out.bytes(field::Container::POD_UID, container->pod_uid);
  out.bytes(field::Container::RUNTIME, container->runtime);
  const uint64_t own_id = container->cgroup_id != 0 ? container->cgroup_id : container->cgroup_v1_id;
  out.varint(field::Container::CGROUP_ID, (own_id != 0 ? own_id : cgroup_id) & ~TG_CGROUP_V1);
  out.bytes(field::Container::CGROUP_PATH, container->path);
  if (container->record) {
    out.bytes(field::Container::NAME, container->record->name);
    out.bytes(field::Container::IMAGE, container->record->image);
    out.varint(field::Container::SANDBOX, container->record->sandbox);
    for (const std::string& word : container->record->health_check) out.bytes_always(field::Container::HEALTH_CHECK, word);
  }
  out.varint(field::Container::UNCONFIRMED, !container->container_id.empty() && !container->record);
  out.close(body);
  return container->batch_id;
}

void Batch::count_event(uint64_t first_sequence, uint64_t last_sequence, uint64_t now_ns) {
  if (events_++ == 0) opened_ns_ = now_ns;
  const size_t end = event_bytes_.size();
  if (parts_.empty() || end - parts_.back().begin > part_max_bytes_) {
    parts_.push_back({parts_.empty() ? 0 : parts_.back().end, end, 0, first_sequence, last_sequence});
  }
  Part& part = parts_.back();
  part.end = end;
  part.events++;
  part.last_sequence = last_sequence;
}

Batch::Mark Batch::mark() {
  added_processes_.clear();
  added_containers_.clear();
  return {container_bytes_.size(), process_bytes_.size(), event_bytes_.size(), last_container_, last_process_};
}

void Batch::rollback(const Mark& mark) {
  for (const ProcessRef added : added_processes_) {
    if (Process* const process = processes_.get(added)) process->batch_stamp = 0;
  }
  for (const std::shared_ptr<Container>& added : added_containers_) added->batch_stamp = 0;
  container_bytes_.truncate(mark.containers);
  process_bytes_.truncate(mark.processes);
  event_bytes_.truncate(mark.events);
  last_container_ = mark.last_container;
  last_process_ = mark.last_process;
}

std::unique_ptr<SealedBatch> Batch::encode(size_t first_part, size_t parts, uint64_t number, int64_t wall_offset_ns) const {
  const Part &first = parts_[first_part], &last = parts_[first_part + parts - 1];
  ProtobufWriter head;
  head.bytes(field::EventBatch::NODE, node_);
  head.bytes(field::EventBatch::BOOT, boot_);
  head.varint(field::EventBatch::BATCH, number);
  head.varint(field::EventBatch::WALL_OFFSET_NS, static_cast<uint64_t>(wall_offset_ns));

  const std::string_view events = event_bytes_.view().substr(first.begin, last.end - first.begin);
  auto sealed = std::make_unique<SealedBatch>();
  sealed->size = head.size() + tables_size() + events.size();
  sealed->plain_size = sealed->size;
  sealed->payload.reset(new uint8_t[sealed->size]);
  uint8_t* at = sealed->payload.get();
  for (const std::string_view bytes : {head.view(), container_bytes_.view(), process_bytes_.view(), events}) {
    at = std::copy(bytes.begin(), bytes.end(), at);
  }
  sealed->number = number;
  for (size_t part = first_part; part < first_part + parts; part++) sealed->events += parts_[part].events;
  sealed->first_sequence = first.first_sequence;
  sealed->last_sequence = last.last_sequence;
  return sealed;
}

void Batch::clear() {
  container_bytes_.clear();
  process_bytes_.clear();
  event_bytes_.clear();
  parts_.clear();
  stamp_++;
  events_ = 0;
  last_process_ = last_container_ = 0;
}

Compressor::Compressor() : context_(ZSTD_createCCtx()) {
  if (context_ == nullptr) throw std::bad_alloc();
}

Compressor::~Compressor() { ZSTD_freeCCtx(context_); }

void Compressor::compress(SealedBatch& batch) {
  if (batch.size < WORTH_IT_BYTES) return;
  const size_t bound = ZSTD_compressBound(batch.size);
  std::unique_ptr<uint8_t[]> packed(new uint8_t[bound]);
  const size_t size = ZSTD_compressCCtx(context_, packed.get(), bound, batch.payload.get(), batch.size, 1);
  if (ZSTD_isError(size) || size > batch.size / 10 * 9) return;
  batch.payload.reset(new uint8_t[size]);
  std::copy_n(packed.get(), size, batch.payload.get());
  batch.size = size;
  batch.zstd = true;
}

}  // namespace tidegate
