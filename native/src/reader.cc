// SPDX-License-Identifier: Apache-2.0
#include "reader.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <malloc.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "proc_files.h"

namespace tidegate {
namespace {

// Records read before the clock and the requests are looked at again.
constexpr size_t PASS_RECORDS_MAX = 4096;
// With a batch open the rings are not waited on (their unreleased records would wake at once): they are looked at now and then, more often when
// they fill. From empty to BUSY_RING_BYTES takes longer than a quiet machine's pause, even in a storm of a million events a second.
constexpr uint64_t QUIET_POLL_NS = 25'000'000;
constexpr uint64_t BUSY_POLL_NS = 5'000'000;
constexpr size_t BUSY_RING_SHARE = 64;
// Loss events wait no longer than this.
constexpr uint64_t URGENT_LINGER_NS = 2'000'000;
// How long a writer in the kernel that was interrupted in mid-record is given.
constexpr uint64_t BUSY_WAIT_NS = 50'000;
// Without events: how often the kernel's loss counters are read.
constexpr uint64_t IDLE_POLL_NS = 1'000'000'000;
constexpr uint64_t EXPIRE_EVERY_NS = 1'000'000'000;
constexpr uint64_t SYNCHRONISE_EVERY_MIN_NS = 1'000'000'000;
// A loss event always fits behind the last event of a batch.
constexpr size_t LOSS_EVENT_MAX_BYTES = 1024;
// Share of a ring that may wait for an open batch to be sealed.
constexpr size_t HELD_SHARE = 2;
// Events that come fast from many processes make batches of tables. Such a batch stays open for longer, so that each process in it
// has more events. With 1,000 processes and as many subjects that makes the pipeline ten times faster.
constexpr size_t CROWDED_EVENTS = 256;
constexpr size_t CROWDED_TABLES_SHARE = 16;
constexpr uint64_t CROWDED_LINGER_NS = 24'000'000;
// What a message may hold is compressed, to a quarter and less where events come in masses: so a batch may grow to several times that size, as far as
// the one before compressed, which with 1,000 subjects saves the enricher and nats-server three of four messages. Its tables stay small enough that it
// can be cut in parts that each have all of them, should it compress worse.
constexpr size_t GROWTH_MAX = 4;
constexpr double GROWTH_RESERVE = 0.85;
constexpr size_t GROWN_TABLES_SHARE = 2;
constexpr size_t PART_SHARE = 4;
// Half of what the enricher takes.
constexpr size_t GROWN_EVENTS_MAX = 1 << 17;
// Ended processes in a line that are taken from the kernel's memory of who forked whom.
constexpr size_t ORPHANS_MAX = 64;

uint64_t clock_ns(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

uint64_t ktime_ns() { return clock_ns(CLOCK_BOOTTIME); }

int64_t wall_offset_ns() { return static_cast<int64_t>(clock_ns(CLOCK_REALTIME) - ktime_ns()); }

void sleep_until_ready(pollfd* files, nfds_t count, uint64_t timeout_ns) {
  const timespec timeout{static_cast<time_t>(timeout_ns / 1'000'000'000), static_cast<long>(timeout_ns % 1'000'000'000)};
  ppoll(files, count, &timeout, nullptr);
}

template <size_t SIZE>
void copy_text(char (&target)[SIZE], const std::string& text) {
  memset(target, 0, SIZE);
  memcpy(target, text.data(), std::min(text.size(), SIZE - 1));
}

}  // namespace

Reader::Reader(ReaderOptions options)
    : options_(std::move(options)),
      loader_(options_.loader),
      records_(options_.host_root),
      cgroups_(options_.cgroup_root, options_.cgroup_v1_root, records_,
               [this](uint32_t pid) {
                 const Process* const process = processes_.find_pid(pid);
                 return process == nullptr ? 0 : process->cgroup_id;
               }),
      batch_(options_.node, options_.boot, options_.batch_max_bytes / PART_SHARE, processes_, cgroups_),
      linger_ns_(options_.linger_ns),
      wake_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (wake_fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  if (options_.zstd) compressor_.emplace();
}

Reader::~Reader() { close(wake_fd_); }

std::vector<HookReport> Reader::open(const std::function<void()>& before_attach) {
  state_file_.emplace(options_.state_file);
  const std::string kernel_boot = read_boot_id(options_.proc_root);
  std::vector<HookReport> reports = loader_.load(before_attach);
  loader_.claim_sockets();
  malloc_trim(0);  // the kernel's types, read for relocation, were many times as large as what stays

  state_.next_sequence = options_.first_sequence;
  state_.counters_id = loader_.map_id("counters");
  copy_text(state_.boot, options_.boot);
  copy_text(state_.kernel_boot, kernel_boot);
  if (const std::optional<SensorState>& found = state_file_->found()) {
    const bool same_boot = kernel_boot == found->kernel_boot;
    state_.next_sequence = std::max(state_.next_sequence, found->next_sequence);
    if (same_boot && found->counters_id == state_.counters_id) state_.lost_seen = found->lost_seen;
    if (same_boot) previous_ktime_ns_ = found->last_ktime_ns;
    missed_events_ = !same_boot || found->counters_id != state_.counters_id;
  }
  lifecycle_.emplace(loader_.map("lifecycle_ring"), options_.loader.lifecycle_ring_bytes);
  data_.emplace(loader_.map("data_ring"), options_.loader.data_ring_bytes);
  return reports;
}

void Reader::request(uint32_t requests) {
  requests_.fetch_or(requests, std::memory_order_release);
  const uint64_t one = 1;
  // Full means the thread is woken already.
  [[maybe_unused]] const ssize_t written = write(wake_fd_, &one, sizeof(one));
}

void Reader::set_linger(uint64_t linger_ns) {
  linger_ns_.store(linger_ns, std::memory_order_relaxed);
  request(0);
}

void Reader::run(const Deliver& deliver) {
  deliver_ = deliver;
  start();
  while (true) {
    uint64_t wakes;
    [[maybe_unused]] const ssize_t size = read(wake_fd_, &wakes, sizeof(wakes));
    const uint32_t requests = requests_.exchange(0, std::memory_order_acquire);
    if (requests & Request::ABANDON || abandoned_) return;
    if (requests & Request::STOP) {
      stop(requests & Request::UNPIN);
      return;
    }
    now_ns_ = ktime_ns();
    if (requests & Request::SYNCHRONISE) synchronise_wanted_ = true;
    if (synchronise_wanted_ && now_ns_ >= synchronised_ns_ + SYNCHRONISE_EVERY_MIN_NS) synchronise();

    const Drained drained = drain();
    now_ns_ = ktime_ns();
    if (batch_.empty()) {
      release_rings();
      if (now_ns_ >= losses_read_ns_ + IDLE_POLL_NS) collect_losses();
    }
    if (!batch_.empty() && ((requests & Request::FLUSH) || now_ns_ >= batch_due_ns())) seal();
    if (now_ns_ >= expired_ns_ + EXPIRE_EVERY_NS) {
      expired_ns_ = now_ns_;
      processes_.expire(now_ns_);
      cgroups_.expire(now_ns_);
    }
    publish_counters();
    if (!drained.more && !abandoned_) wait(drained);
  }
}

void Reader::start() {
  now_ns_ = losses_read_ns_ = ktime_ns();
  cgroups_.walk();
  synchronise();
  report_gap();
  collect_losses();
}

// What happened while no program was attached has no numbers: a loss of unknown size says when that was.
void Reader::report_gap() {
  if (!missed_events_) return;
  Loss gap;
  gap.reason = schema::LossReason::SENSOR_RESTART;
  gap.from_ktime_ns = previous_ktime_ns_;
  gap.to_ktime_ns = now_ns_;
  append_loss(gap, false);
}

void Reader::stop(bool unpin) {
  const bool last = unpin || !loader_.pinning().pinned;
  if (last) loader_.detach(unpin);
  // A program that runs on another CPU may still be writing: what comes within this drain is taken, as in any pass.
  const uint64_t give_up_ns = ktime_ns() + BUSY_POLL_NS;
  do {
    const Drained drained = drain();
    if (!drained.moved && !drained.busy) break;
    now_ns_ = ktime_ns();
  } while (!abandoned_ && (last || now_ns_ < give_up_ns));
  collect_losses();
  if (batch_.empty()) {
    release_rings();
  } else {
    seal();
  }
  publish_counters();
  if (unpin) loader_.remove_pins();
}

Reader::Drained Reader::drain() {
  Drained result;
  // In this order: whatever process a record below the data ring's mark belongs to, its fork and exec lie below the lifecycle ring's mark.
  data_->snapshot();
  lifecycle_->snapshot();
  for (size_t count = 0; count < PASS_RECORDS_MAX; count++) {
    const tg_header* const lifecycle = lifecycle_->peek();
    const tg_header* const data = data_->peek();
    const bool lifecycle_complete = !lifecycle_->busy();
    if (lifecycle != nullptr && (data == nullptr || lifecycle->ktime_ns <= data->ktime_ns)) {
      last_lifecycle_ns_ = std::max<uint64_t>(last_lifecycle_ns_, lifecycle->ktime_ns);
      handle(*lifecycle);
      lifecycle_->advance();
    } else if (data != nullptr && (lifecycle != nullptr || lifecycle_complete || data->ktime_ns <= last_lifecycle_ns_)) {
      handle(*data);
      data_->advance();
    } else {
      result.busy = lifecycle_->busy() || data_->busy();
      return result;
    }
    result.moved = true;
    for (RingReader* ring : {&*lifecycle_, &*data_}) {
      if (ring->held_bytes() <= ring->ring_bytes() / HELD_SHARE) continue;
      if (batch_.empty()) {
        release_rings();
      } else {
        seal();
      }
    }
    if (abandoned_) return result;
  }
  result.more = true;
  return result;
}

void Reader::wait(const Drained& drained) {
  pollfd files[] = {{wake_fd_, POLLIN, 0}, {lifecycle_->fd(), POLLIN, 0}, {data_->fd(), POLLIN, 0}};
  if (drained.busy) {
    sleep_until_ready(files, 1, BUSY_WAIT_NS);
  } else if (!batch_.empty()) {
    const uint64_t due_ns = batch_due_ns();
    const uint64_t left_ns = due_ns > now_ns_ ? due_ns - now_ns_ : 0;
    sleep_until_ready(files, 1, std::min(left_ns, pause_ns()));
  } else if (drained.moved) {
    // Where forks and filtered processes come one by one, each would wake this thread for itself.
    sleep_until_ready(files, 1, std::min(linger_ns_.load(std::memory_order_relaxed) / 4, pause_ns()));
  } else {
    sleep_until_ready(files, 3, IDLE_POLL_NS);
  }
}

uint64_t Reader::pause_ns() const {
  const bool busy = data_->held_bytes() > data_->ring_bytes() / BUSY_RING_SHARE ||
                    lifecycle_->held_bytes() > lifecycle_->ring_bytes() / BUSY_RING_SHARE;
  return busy ? BUSY_POLL_NS : QUIET_POLL_NS;
}

uint64_t Reader::batch_due_ns() const {
  const bool crowded = batch_.events_count() >= CROWDED_EVENTS && batch_.tables_size() * CROWDED_TABLES_SHARE > batch_.size();
  const uint64_t linger_ns = linger_ns_.load(std::memory_order_relaxed);
  if (urgent_) return batch_.opened_ns() + std::min(linger_ns, URGENT_LINGER_NS);
  return batch_.opened_ns() + (crowded ? std::max(linger_ns, CROWDED_LINGER_NS) : linger_ns);
}

void Reader::handle(const tg_header& record) {
  switch (record.type) {
    case TG_RECORD_FORK:
      if (record.size >= sizeof(tg_fork)) return handle_fork(reinterpret_cast<const tg_fork&>(record));
      break;
    case TG_RECORD_CGROUP_MKDIR:
    case TG_RECORD_CGROUP_RMDIR:
      if (record.size >= offsetof(tg_cgroup, path)) return handle_cgroup(reinterpret_cast<const tg_cgroup&>(record));
      break;
    case TG_RECORD_EXEC: {
      ExecStrings strings;
      if (is_event(record) && exec_strings(reinterpret_cast<const tg_exec&>(record), strings)) {
        return handle_exec(reinterpret_cast<const tg_exec&>(record));
      }
      break;
    }
    case TG_RECORD_EXIT:
      if (is_event(record)) return handle_exit(reinterpret_cast<const tg_exit&>(record));
      break;
    default:
      if (!is_event(record)) break;
      append(record, record.flags & TG_FLAG_NO_OWNER ? nullptr : &resolve(record.process, &record));
      return;
  }
  counters_.malformed.fetch_add(1, std::memory_order_relaxed);
}

void Reader::handle_fork(const tg_fork& fork) {
  const ProcessKey& key = fork.header.process;
  const ProcessRef forker_ref = parent_of(fork.forker);
  Process* child = processes_.find(key);
  ProcessKey kernel_parent = fork.parent;
  if (child != nullptr) {
    // The iterator met it first: what it read is of a later moment, but who forked it stands here alone.
    if (const Process* const parent = processes_.get(child->parent)) kernel_parent = parent->key;
  } else {
    child = &processes_.insert(key, now_ns_);
    child->origin = Origin::FORK;
    child->uid = fork.header.uid;
    child->cgroup_id = fork.header.cgroup_id;
    if (const Process* const forker = processes_.get(forker_ref)) {
      child->image = forker->image;
      const bool together = cgroups_.container(child->cgroup_id) == cgroups_.container(forker->cgroup_id);
      child->inside = together && forker->inside;
      child->entered = together && forker->entered;
      child->entry = child->entered ? forker->entry : nullptr;
      child->mount_namespace = forker->mount_namespace;
    }
  }
  set_lineage(*child, forker_ref, kernel_parent);
}

void Reader::handle_exec(const tg_exec& exec) {
  const tg_header& header = exec.header;
  ExecStrings strings;
  exec_strings(exec, strings);
  const ImageSource source{strings.binary, strings.cwd, strings.arguments,
                           (exec.flags & (TG_EXEC_ARGUMENTS_TRUNCATED | TG_EXEC_ARGUMENTS_UNREADABLE)) != 0, false};
  const Process* const previous = image_before(header.process);
  const ProcessRef previous_ref = previous == nullptr ? ProcessRef{} : ProcessTable::ref(*previous);
  // The kernel's parent of an orphan is whoever took it over; who forked it is known from then.
  ProcessRef forker = previous == nullptr ? ProcessRef{} : previous->parent;
  if (processes_.get(forker) == nullptr) forker = forker_of(header.process, ORPHANS_MAX);
  if (processes_.get(forker) == nullptr) forker = parent_of(exec.parent);
  Process* process = processes_.find(header.process);
  if (process == nullptr) {
    process = &processes_.insert(header.process, now_ns_);
  } else if (batch_.holds(*process)) {
    seal();  // its table entry there is the brief one
  }
  process->origin = Origin::EXEC;
  process->uid = header.uid;
  process->cgroup_id = header.cgroup_id;
  process->image = make_image(source);
  set_lineage(*process, forker, exec.parent);
  cgroups_.look_again(process->cgroup_id);
  learn_runtime(*process, strings.cwd, strings.arguments);
  place_in_container(*process, processes_.get(previous_ref));
  process->mount_namespace = exec.namespaces.mnt;
  if (process->entered) {
    scratch_.clear();
    encode_entry(scratch_, source, strings.raw_path, exec.tty[0] != '\0');
    note_entry(*process, scratch_.view());
  }

  if (header.flags & TG_FLAG_HIDDEN) return;
  if (strings.arguments.size() <= BRIEF_ARGUMENTS_MAX) {
    append(header, process);
    return;
  }
  scratch_.clear();
  encode_image(scratch_, source, TG_ARGUMENTS_MAX);
  append(header, process, scratch_.view());
}

void Reader::handle_exit(const tg_exit& exit) {
  const tg_header& header = exit.header;
  Process& process = resolve(header.process, &header);
  // Two last threads of a group can both take themselves for the last.
  if (process.exited) return;
  process.exited = true;
  follow_cgroup(process, header.cgroup_id);
  follow_kernel_parent(process, exit.parent);
  if (!(header.flags & TG_FLAG_HIDDEN)) append(header, &process);
  processes_.end(process, now_ns_);
}

void Reader::handle_cgroup(const tg_cgroup& cgroup) {
  if (cgroup.header.type == TG_RECORD_CGROUP_RMDIR) {
    cgroups_.removed(cgroup.id, now_ns_);
    return;
  }
  const size_t room = cgroup.header.size - offsetof(tg_cgroup, path);
  cgroups_.made(cgroup.id, {cgroup.path, std::min<size_t>(cgroup.path_size, room)}, cgroup.header.uid);
}

void Reader::append(const tg_header& record, Process* process, std::string_view full_image) {
  while (true) {
    const bool alone = batch_.empty();
    const Batch::Mark mark = batch_.mark();
    const uint32_t process_id = process == nullptr ? 0 : batch_.add_process(*process, full_image);
    ProtobufWriter& out = batch_.events();
    const size_t body = out.open(field::EventBatch::EVENTS);
    encode_event(out, record, process_id, state_.next_sequence);
    out.close(body);
    if (alone || has_room()) break;
    batch_.rollback(mark);
    seal();
  }
  batch_.count_event(state_.next_sequence, state_.next_sequence, now_ns_);
  state_.next_sequence++;
}

// For a loss event, behind what is in the batch.
bool Reader::has_room() const {
  const size_t size = batch_.size() + LOSS_EVENT_MAX_BYTES;
  if (size <= options_.batch_max_bytes) return true;
  return size <= grown_max_bytes_ && batch_.events_count() < GROWN_EVENTS_MAX &&
         batch_.tables_size() <= options_.batch_max_bytes / GROWN_TABLES_SHARE;
}

// take_numbers: the lost events get the next numbers; else the loss says which numbers it is about, if any.
void Reader::append_loss(Loss loss, bool take_numbers) {
  if (take_numbers) {
    loss.first_sequence = state_.next_sequence;
    state_.next_sequence += loss.count;
    loss.last_sequence = state_.next_sequence - 1;
  }
  const uint64_t sequence = state_.next_sequence++;
  ProtobufWriter& out = batch_.events();
  const size_t body = out.open(field::EventBatch::EVENTS);
  encode_loss(out, loss, sequence);
  out.close(body);
  urgent_ = true;
  batch_.count_event(loss.first_sequence != 0 ? loss.first_sequence : sequence, sequence, now_ns_);
}

void Reader::collect_losses() {
  const tg_counters kernel = kernel_counters();
  Loss loss;
  loss.reason = schema::LossReason::RING_FULL;
  loss.from_ktime_ns = losses_read_ns_;
  loss.to_ktime_ns = losses_read_ns_ = ktime_ns();
  for (size_t kind = 0; kind < TG_KIND_MAX; kind++) {
    if (kernel.lost_by_kind[kind] <= state_.lost_seen[kind]) continue;
    loss.by_kind[kind] = kernel.lost_by_kind[kind] - state_.lost_seen[kind];
    loss.count += loss.by_kind[kind];
    state_.lost_seen[kind] = kernel.lost_by_kind[kind];
  }
  if (loss.count != 0) append_loss(loss, true);

  // Lost forks, execs and exits leave holes in the process table: the iterator fills them.
  const uint64_t lifecycle_lost = kernel.lost_fork + kernel.lost_by_kind[TG_RECORD_EXEC] + kernel.lost_by_kind[TG_RECORD_EXIT];
  if (lifecycle_lost != lifecycle_lost_) synchronise_wanted_ = true;
  lifecycle_lost_ = lifecycle_lost;
}

void Reader::seal() {
  collect_losses();
  std::vector<std::unique_ptr<SealedBatch>> sealed;
  encode(0, batch_.parts(), sealed);
  batch_.clear();
  urgent_ = false;
  // First the numbers are given out for good, then the records go: killed in between, the sensor reads them again under new numbers, and the
  // old ones count as lost. The other way round events could go without a trace.
  state_.last_batch += sealed.size();
  state_.last_ktime_ns = ktime_ns();
  state_file_->store(state_);
  release_rings();
  for (std::unique_ptr<SealedBatch>& each : sealed) deliver(std::move(each));
}

// As one batch, or where that compresses too badly for a message, in halves.
void Reader::encode(size_t first_part, size_t parts, std::vector<std::unique_ptr<SealedBatch>>& sealed) {
  std::unique_ptr<SealedBatch> batch = batch_.encode(first_part, parts, state_.last_batch + 1 + sealed.size(), wall_offset_ns());
  if (compressor_) compressor_->compress(*batch);
  // Small batches compress in another way.
  if (batch->plain_size >= options_.batch_max_bytes / 2) {
    const double fits = GROWTH_RESERVE * options_.batch_max_bytes * batch->plain_size / batch->size;
    grown_max_bytes_ = std::min(static_cast<size_t>(fits), GROWTH_MAX * options_.batch_max_bytes);
  }
  if (batch->size <= options_.batch_max_bytes || parts == 1) {
    sealed.push_back(std::move(batch));
    return;
  }
  encode(first_part, parts / 2, sealed);
  encode(first_part + parts / 2, parts - parts / 2, sealed);
}

void Reader::deliver(std::unique_ptr<SealedBatch> sealed) {
  counters_.events.fetch_add(sealed->events, std::memory_order_relaxed);
  counters_.batches.fetch_add(1, std::memory_order_relaxed);
  counters_.bytes.fetch_add(sealed->size, std::memory_order_relaxed);
  counters_.plain_bytes.fetch_add(sealed->plain_size, std::memory_order_relaxed);
  counters_.last_sequence.store(sealed->last_sequence, std::memory_order_relaxed);
  if (!abandoned_ && !deliver_(std::move(sealed))) abandoned_ = true;
}

void Reader::release_rings() {
  lifecycle_->release();
  data_->release();
}

// The process of this key. One that is not in the table enters it as unknown: its start was lost.
Process& Reader::resolve(const ProcessKey& key, const tg_header* record) {
  if (Process* const known = processes_.find(key)) return *known;
  counters_.unknown_processes.fetch_add(1, std::memory_order_relaxed);
  Process& process = processes_.insert(key, now_ns_);
  process.origin = Origin::UNKNOWN;
  processes_.set_parent(process, forker_of(key, ORPHANS_MAX));
  // An older image of a process that has a newer one: what /proc tells is of the newer.
  if (!process.ended) read_from_proc(process);
  if (record != nullptr) {
    process.uid = record->uid;
    process.cgroup_id = record->cgroup_id;
  }
  return process;
}

// Fills in what /proc still tells of a running process.
void Reader::read_from_proc(Process& process) {
  const std::optional<ProcProcess> found = read_process(options_.proc_root, process.key.pid, process.key.start_ktime_ns);
  if (!found) return;
  process.uid = found->uid;
  process.cgroup_id = cgroups_.id(found->cgroup_path, found->cgroup_v1_path);
  process.image = make_image({found->binary, found->cwd, found->arguments, found->arguments_truncated, found->kernel_thread});
  const Process* const parent = processes_.find_pid(found->parent_pid);
  if (parent == nullptr) return;
  set_lineage(process, processes_.get(process.parent) == nullptr ? ProcessTable::ref(*parent) : process.parent, parent->key);
}

ProcessRef Reader::parent_of(const ProcessKey& parent) {
  // Pid 0 is the idle task, which init and kthreadd descend from.
  return parent.pid == 0 ? ProcessRef{} : ProcessTable::ref(resolve(parent, nullptr));
}

// The nearest ancestor of which more is known than its numbers; where lineage ends before one, the parent that the kernel names.
const Process* Reader::known_ancestor(const Process& process) {
  const Process* ancestor = processes_.get(process.parent);
  while (ancestor != nullptr && ancestor->origin == Origin::UNKNOWN) ancestor = processes_.get(ancestor->parent);
  return ancestor != nullptr ? ancestor : processes_.find(process.kernel_parent);
}

// The newest image of the process that is older than this one.
Process* Reader::image_before(const ProcessKey& key) {
  ProcessKey before = key;
  before.exec_generation--;
  if (Process* const image = processes_.find(before)) return image;
  Process* const newest = processes_.find_pid(key.pid);
  const bool older = newest != nullptr && same_process(newest->key, key) && newest->key.exec_generation < key.exec_generation;
  return older ? newest : nullptr;
}

// kernel_parent: the one that the kernel names at the time.
void Reader::set_lineage(Process& process, ProcessRef forker, const ProcessKey& kernel_parent) {
  if (process.parent.slot != forker.slot || process.parent.serial != forker.serial) {
    if (batch_.holds(process)) seal();  // its table entry there has another parent
    processes_.set_parent(process, forker);
  }
  follow_kernel_parent(process, kernel_parent);
}

void Reader::follow_kernel_parent(Process& process, const ProcessKey& kernel_parent) {
  const Process* const parent = processes_.get(process.parent);
  const bool differs = parent != nullptr && kernel_parent.pid != 0 && !same_process(parent->key, kernel_parent);
  const ProcessKey now = differs ? kernel_parent : ProcessKey{};
  if (ProcessKeyEqual()(process.kernel_parent, now)) return;
  process.kernel_parent = now;
  if (batch_.holds(process)) seal();  // its table entry there names the earlier one
}

// The process that forked this one, from what the kernel remembers of orphans; none: the parent it has did, or that is forgotten.
ProcessRef Reader::forker_of(const ProcessKey& key, size_t depth) {
  const std::optional<ProcessKey> forker = depth == 0 ? std::nullopt : loader_.forker(key);
  if (!forker || forker->pid == 0) return {};
  Process* known = processes_.find(*forker);
  if (known == nullptr) known = processes_.find_pid(forker->pid);
  if (known != nullptr && same_process(known->key, *forker)) return ProcessTable::ref(*known);
  // It has ended, and nothing but its numbers is left of it.
  const ProcessRef parent = forker_of(*forker, depth - 1);
  Process& ended = processes_.insert(*forker, now_ns_);
  processes_.end(ended, now_ns_);
  processes_.set_parent(ended, parent);
  return ProcessTable::ref(ended);
}

// The parent of a running process. Its key may be out of date: it may have called execve since the kernel gave it.
ProcessRef Reader::running_parent(const ProcessKey& key) {
  Process* parent = processes_.find(key);
  if (parent == nullptr) parent = processes_.find_pid(key.pid);
  if (parent == nullptr || !same_process(parent->key, key)) {
    parent = &resolve(key, nullptr);
    parent->origin = Origin::RUNNING;
  }
  parent->round = round_;
  return ProcessTable::ref(*parent);
}

// Brings the table in step with the processes there are: at the start, and when lifecycle records were lost.
void Reader::synchronise() {
  synchronise_wanted_ = false;
  synchronised_ns_ = now_ns_ = ktime_ns();
  const uint64_t began_ns = now_ns_;
  round_++;
  struct Found {
    ProcessRef process;
    ProcessKey parent;
    bool is_new;
    std::string entry_fields;
  };
  std::vector<Found> all;
  const bool complete = loader_.each_task([&](const tg_exec& task) {
    const tg_header& header = task.header;
    ExecStrings strings;
    if (!exec_strings(task, strings)) return;
    Process* process = processes_.find(header.process);
    const bool is_new = process == nullptr || process->origin == Origin::UNKNOWN;
    if (process == nullptr) process = &processes_.insert(header.process, now_ns_);
    process->round = round_;
    ProtobufWriter entry;
    if (is_new) {
      process->origin = Origin::RUNNING;
      process->mount_namespace = task.namespaces.mnt;
      process->uid = header.uid;
      process->cgroup_id = header.cgroup_id;
      const bool kernel_thread = task.flags & TG_EXEC_KERNEL_THREAD;
      const std::optional<ProcProcess> found =
          kernel_thread ? std::nullopt : read_process(options_.proc_root, header.process.pid, header.process.start_ktime_ns);
      const bool cut = found && found->arguments_truncated;
      const std::string name = "[" + std::string(task.comm, strnlen(task.comm, sizeof(task.comm))) + "]";
      const ImageSource source{kernel_thread ? std::string_view(name) : strings.binary, found ? std::string_view(found->cwd) : "",
                               found ? std::string_view(found->arguments) : "", cut, kernel_thread};
      process->image = make_image(source);
      encode_entry(entry, source, "", task.tty[0] != '\0');
      if (found) learn_runtime(*process, found->cwd, found->arguments);
    }
    all.push_back({ProcessTable::ref(*process), task.parent, is_new, std::string(entry.view())});
  });
  if (!complete) return;
  // The oldest first: a container's first process then comes before those that entered it.
  std::sort(all.begin(), all.end(), [&](const Found& a, const Found& b) {
    const Process *first = processes_.get(a.process), *second = processes_.get(b.process);
    return first != nullptr && second != nullptr && first->key.start_ktime_ns < second->key.start_ktime_ns;
  });
  for (const Found& each : all) {
    // A parent lives as long as its child names it; so one the iterator did not show (some kernels hide init from it) is alive too.
    const ProcessRef parent_ref = each.parent.pid == 0 ? ProcessRef{} : running_parent(each.parent);
    Process* const process = processes_.get(each.process);
    if (process == nullptr) continue;
    if (!each.is_new) {
      follow_kernel_parent(*process, each.parent);
      continue;
    }
    const ProcessRef forker_ref = forker_of(process->key, ORPHANS_MAX);
    set_lineage(*process, processes_.get(forker_ref) == nullptr ? parent_ref : forker_ref, each.parent);
    cgroups_.look_again(process->cgroup_id);
    place_in_container(*process, nullptr);
    note_entry(*process, each.entry_fields);
  }
  processes_.end_unseen(round_, began_ns, now_ns_);
  loader_.claim_sockets();  // after the processes: by then the filters in force have been asked about each
  counters_.synchronisations.fetch_add(1, std::memory_order_relaxed);
}

// A process may be moved after its image was loaded: its events from then on are its new container's.
void Reader::follow_cgroup(Process& process, uint64_t cgroup_id) {
  if (process.cgroup_id == cgroup_id) return;
  const bool changes = cgroups_.container(process.cgroup_id) != cgroups_.container(cgroup_id);
  process.cgroup_id = cgroup_id;
  if (changes && batch_.holds(process)) seal();  // its table entry there names the earlier one
}

// Tells a container's own processes from those that came in from outside. A container starts when a process loads its first image in it;
// any later one that loads an image there, without having grown up there, entered.
void Reader::place_in_container(Process& process, const Process* previous) {
  const std::shared_ptr<Container> container = cgroups_.container(process.cgroup_id);
  process.inside = process.entered = false;
  process.entry = nullptr;
  // A pod's cgroup outside its containers has nothing to enter: monitors of the runtime run there.
  if (container == nullptr || container->container_id.empty()) return;
  const Process* const parent = known_ancestor(process);
  process.inside = true;
  for (const Process* relative : {previous, parent}) {
    if (relative == nullptr || !relative->inside || cgroups_.container(relative->cgroup_id) != container) continue;
    process.entered = relative->entered;
    process.entry = relative->entry;
    return;
  }
  if (!container->first_process) container->first_process = process.key;
  process.entered = !same_process(*container->first_process, process.key);
}

// Keeps with what a process entered its container: entry_fields, of the image it has just loaded, unless it had entered before. A runtime may load itself
// once more when it is in the cgroup and not yet in the container's namespaces: that is not what it was asked to run.
void Reader::note_entry(Process& process, std::string_view entry_fields) {
  if (!process.entered || (process.entry && process.entry->outside_namespace == 0)) return;
  const Process* const parent = processes_.get(process.parent);
  const uint32_t outside = process.entry ? process.entry->outside_namespace : parent != nullptr ? parent->mount_namespace : 0;
  process.entry = std::make_shared<const Entry>(Entry{std::string(entry_fields), process.mount_namespace == outside ? outside : 0});
}

// From the monitors of containers the folders are learned in which their runtime keeps its records. Only root's are believed, and none in a container.
void Reader::learn_runtime(const Process& process, std::string_view cwd, std::string_view arguments) {
  if (process.uid != 0) return;
  const std::shared_ptr<Container> container = cgroups_.container(process.cgroup_id);
  if (container != nullptr && !container->container_id.empty()) return;
  if (records_.learn(cwd, arguments)) cgroups_.records_learned();
}

std::shared_ptr<const Image> Reader::make_image(const ImageSource& source) {
  ProtobufWriter brief;
  encode_image(brief, source, BRIEF_ARGUMENTS_MAX);
  return std::make_shared<const Image>(Image{std::string(brief.view())});
}

tg_counters Reader::kernel_counters() const {
  const int cpus = libbpf_num_possible_cpus();
  std::vector<tg_counters> per_cpu(static_cast<size_t>(std::max(cpus, 1)));
  const uint32_t key = 0;
  tg_counters sum{};
  if (bpf_map_lookup_elem(loader_.map("counters"), &key, per_cpu.data()) != 0) return sum;
  constexpr size_t WORDS = sizeof(tg_counters) / sizeof(uint64_t);
  static_assert(sizeof(tg_counters) == WORDS * sizeof(uint64_t));
  auto* const total = reinterpret_cast<uint64_t*>(&sum);
  for (const tg_counters& each : per_cpu) {
    const auto* const words = reinterpret_cast<const uint64_t*>(&each);
    for (size_t word = 0; word < WORDS; word++) total[word] += words[word];
  }
  return sum;
}

void Reader::publish_counters() {
  counters_.malformed_in_ring.store(lifecycle_->malformed() + data_->malformed(), std::memory_order_relaxed);
  counters_.processes.store(processes_.size(), std::memory_order_relaxed);
  counters_.processes_running.store(processes_.running(), std::memory_order_relaxed);
  counters_.processes_evicted.store(processes_.evicted(), std::memory_order_relaxed);
  counters_.cgroups.store(cgroups_.size(), std::memory_order_relaxed);
  counters_.cgroups_evicted.store(cgroups_.evicted(), std::memory_order_relaxed);
  counters_.containers_not_described.store(cgroups_.not_described(), std::memory_order_relaxed);
  counters_.containers_undescribed.store(cgroups_.undescribed(), std::memory_order_relaxed);
  counters_.cpu_ns.store(clock_ns(CLOCK_THREAD_CPUTIME_ID), std::memory_order_relaxed);
}

}  // namespace tidegate
