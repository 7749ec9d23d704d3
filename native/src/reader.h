// SPDX-License-Identifier: Apache-2.0
// From the kernel's rings to sealed batches: the thread that reads, and what it keeps.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "batch.h"
#include "cgroup_table.h"
#include "event_encoder.h"
#include "loader.h"
#include "process_table.h"
#include "ring_reader.h"
#include "state_file.h"

namespace tidegate {

struct ReaderOptions {
  LoaderOptions loader;
  std::string node, boot, state_file, proc_root, cgroup_root, cgroup_v1_root, host_root;
  uint64_t first_sequence = 1;
  size_t batch_max_bytes = 0;
  uint64_t linger_ns = 0;
  bool zstd = false;
};

// Counted by the reader's thread, read by any.
struct ReaderCounters {
  std::atomic<uint64_t> events{0}, batches{0}, bytes{0}, plain_bytes{0};
  std::atomic<uint64_t> last_sequence{0};
  std::atomic<uint64_t> malformed{0}, malformed_in_ring{0}, unknown_processes{0}, synchronisations{0};
  std::atomic<uint64_t> processes{0}, processes_running{0}, processes_evicted{0};
  std::atomic<uint64_t> cgroups{0}, cgroups_evicted{0}, containers_not_described{0}, containers_undescribed{0};
  std::atomic<uint64_t> cpu_ns{0};
};

class Reader {
 public:
  // Called on the reader's thread. Waits while the queue behind it is full; false: nobody takes batches any more.
  using Deliver = std::function<bool(std::unique_ptr<SealedBatch>)>;

  explicit Reader(ReaderOptions options);
  ~Reader();
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  // Opens the state file, loads and attaches. before_attach: see Loader. Throws LoadError and std::system_error.
  std::vector<HookReport> open(const std::function<void()>& before_attach);

  // The thread's whole life, from open() to a stop.
  void run(const Deliver& deliver);

  // From any thread.
  enum Request : uint32_t {
    FLUSH = 1 << 0,  // hand out what there is
    SYNCHRONISE = 1 << 1,  // run the iterators again
    STOP = 1 << 2,  // after what is in the rings
    UNPIN = 1 << 3,  // with STOP: leave nothing in the kernel
    ABANDON = 1 << 4,  // at once
  };
  void request(uint32_t requests);
  // How long a batch waits for more events from now on, the open one too.
  void set_linger(uint64_t linger_ns);

  const Loader& loader() const { return loader_; }
  const ReaderCounters& counters() const { return counters_; }
  tg_counters kernel_counters() const;

 private:
  struct Drained {
    bool moved = false;  // records were read
    bool busy = false;  // a writer in the kernel is in the middle of a record
    bool more = false;  // the bound of one pass was reached
  };

  void start();
  void stop(bool unpin);
  Drained drain();
  uint64_t batch_due_ns() const;
  uint64_t pause_ns() const;
  void wait(const Drained& drained);
  void handle(const tg_header& record);
  void handle_fork(const tg_fork& fork);
  void handle_exec(const tg_exec& exec);
  void handle_exit(const tg_exit& exit);
  void handle_cgroup(const tg_cgroup& cgroup);

  void append(const tg_header& record, Process* process, std::string_view full_image = {});
  void append_loss(Loss loss, bool take_numbers);
  void collect_losses();
  void report_gap();
  bool has_room() const;
  void seal();
  void encode(size_t first_part, size_t parts, std::vector<std::unique_ptr<SealedBatch>>& sealed);
  void deliver(std::unique_ptr<SealedBatch> sealed);
  void release_rings();

  Process& resolve(const ProcessKey& key, const tg_header* record);
  void read_from_proc(Process& process);
  ProcessRef parent_of(const ProcessKey& parent);
  ProcessRef running_parent(const ProcessKey& key);
  ProcessRef forker_of(const ProcessKey& key, size_t depth);
  const Process* known_ancestor(const Process& process);
  Process* image_before(const ProcessKey& key);
  void set_lineage(Process& process, ProcessRef forker, const ProcessKey& kernel_parent);
  void follow_kernel_parent(Process& process, const ProcessKey& kernel_parent);
  void synchronise();
  void follow_cgroup(Process& process, uint64_t cgroup_id);
  void place_in_container(Process& process, const Process* previous);
  void note_entry(Process& process, std::string_view entry_fields);
  void learn_runtime(const Process& process, std::string_view cwd, std::string_view arguments);
  std::shared_ptr<const Image> make_image(const ImageSource& source);
  void publish_counters();

  const ReaderOptions options_;
  Loader loader_;
  std::optional<StateFile> state_file_;
  SensorState state_;
  uint64_t previous_ktime_ns_ = 0;  // when an earlier sensor of this kernel's boot sealed its last batch; 0: it ran in an earlier boot, or never
  bool missed_events_ = false;  // no program was attached between the earlier sensor and this one
  std::optional<RingReader> lifecycle_, data_;
  ProcessTable processes_;
  RuntimeRecords records_;
  CgroupTable cgroups_;
  Batch batch_;
  std::optional<Compressor> compressor_;
  ProtobufWriter scratch_;
  Deliver deliver_;
  size_t grown_max_bytes_ = 0;  // of a batch, not compressed, that is expected to fit a message
  std::atomic<uint64_t> linger_ns_;
  bool urgent_ = false;  // the open batch holds what must not wait
  bool abandoned_ = false;
  uint64_t now_ns_ = 0;
  uint64_t last_lifecycle_ns_ = 0;
  uint64_t losses_read_ns_ = 0;
  uint64_t expired_ns_ = 0;
  uint64_t round_ = 0;
  uint64_t synchronised_ns_ = 0;
  bool synchronise_wanted_ = false;
  uint64_t lifecycle_lost_ = 0;
  int wake_fd_;
  std::atomic<uint32_t> requests_{0};
  ReaderCounters counters_;
};

}  // namespace tidegate
