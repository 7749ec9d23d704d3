// SPDX-License-Identifier: Apache-2.0
// The bridge to JavaScript: plain data in, batches out. Arguments were checked in TypeScript.
#include <bpf/bpf.h>
#include <napi.h>
#include <pthread.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "filters.h"
#include "libbpf_log.h"
#include "reader.h"
#include "storm.h"

namespace tidegate {
namespace {

uint64_t to_u64(const Napi::Value& value) {
  if (value.IsBigInt()) {
    bool lossless;
    return value.As<Napi::BigInt>().Uint64Value(&lossless);
  }
  return static_cast<uint64_t>(value.ToNumber().Int64Value());
}

std::string to_string(const Napi::Value& value) { return value.IsString() ? value.As<Napi::String>().Utf8Value() : std::string(); }

Napi::Number number(Napi::Env env, uint64_t value) { return Napi::Number::New(env, static_cast<double>(value)); }

uint64_t nanoseconds(const Napi::Value& milliseconds) { return static_cast<uint64_t>(milliseconds.ToNumber().DoubleValue() * 1e6); }

ReaderOptions to_options(const Napi::Object& value) {
  ReaderOptions options;
  options.loader.object_file = to_string(value.Get("objectFile"));
  options.loader.pin_directory = to_string(value.Get("pinDirectory"));
  options.loader.lifecycle_ring_bytes = value.Get("lifecycleRingBytes").ToNumber();
  options.loader.data_ring_bytes = value.Get("dataRingBytes").ToNumber();
  options.node = to_string(value.Get("node"));
  options.boot = to_string(value.Get("boot"));
  options.state_file = to_string(value.Get("stateFile"));
  options.proc_root = to_string(value.Get("procRoot"));
  options.cgroup_root = to_string(value.Get("cgroupRoot"));
  options.cgroup_v1_root = to_string(value.Get("cgroupV1Root"));
  options.host_root = to_string(value.Get("hostRoot"));
  options.first_sequence = to_u64(value.Get("firstSequence"));
  options.batch_max_bytes = to_u64(value.Get("batchMaxBytes"));
  options.linger_ns = nanoseconds(value.Get("lingerMs"));
  options.zstd = to_string(value.Get("compression")) == "zstd";
  return options;
}

template <typename Key, typename Convert>
void read_members(const Napi::Value& pairs, std::map<Key, uint32_t>& out, const Convert& convert) {
  const auto list = pairs.As<Napi::Array>();
  for (uint32_t index = 0; index < list.Length(); index++) {
    const auto pair = list.Get(index).As<Napi::Array>();
    out[convert(pair.Get(0u))] = pair.Get(1u).ToNumber();
  }
}

Filters to_filters(const Napi::Object& value) {
  Filters filters;
  filters.words.kinds = value.Get("kinds").ToNumber();
  filters.words.allow = value.Get("allow").ToNumber();
  filters.words.deny = value.Get("deny").ToNumber();
  read_members(value.Get("uids"), filters.uids, to_u64);
  read_members(value.Get("cgroups"), filters.cgroups, to_u64);
  read_members(value.Get("namespaces"), filters.namespaces, to_u64);
  read_members(value.Get("binaries"), filters.binaries, to_string);
  return filters;
}

Napi::Object by_kind(Napi::Env env, const __u64 (&counts)[TG_KIND_MAX]) {
  Napi::Object result = Napi::Object::New(env);
  for (uint32_t kind = 0; kind < TG_KIND_MAX; kind++) {
    if (counts[kind] != 0) result.Set(kind, number(env, counts[kind]));
  }
  return result;
}

// Runs `action`, with its faults thrown as JavaScript errors that have a code.
template <typename Action>
auto guarded(Napi::Env env, const Action& action) {
  const auto raise = [&](const char* code, const char* message) {
    Napi::Error error = Napi::Error::New(env, message);
    error.Set("code", Napi::String::New(env, code));
    throw error;
  };
  try {
    return action();
  } catch (const LoadError& error) {
    raise("NATIVE_LOAD_FAILED", error.what());
  } catch (const std::system_error& error) {
    raise(error.code() == std::errc::operation_would_block ? "NATIVE_STATE_FILE_LOCKED" : "NATIVE_SYSTEM_ERROR", error.what());
  }
  return decltype(action())();
}

}  // namespace

class NativeReader : public Napi::ObjectWrap<NativeReader> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "NativeReader",
                       {InstanceMethod<&NativeReader::start>("start"), InstanceMethod<&NativeReader::set_filters>("setFilters"),
                        InstanceMethod<&NativeReader::counters>("counters"), InstanceMethod<&NativeReader::flush>("flush"),
                        InstanceMethod<&NativeReader::set_linger>("setLinger"),
                        InstanceMethod<&NativeReader::close>("close")});
  }

  explicit NativeReader(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeReader>(info) {
    const auto options = info[0].As<Napi::Object>();
    queue_max_ = to_u64(options.Get("queueMaxBatches"));
    on_batch_ = Napi::Persistent(info[1].As<Napi::Function>());
    guarded(info.Env(), [&] { reader_ = std::make_unique<Reader>(to_options(options)); });
  }

 private:
  static void deliver(Napi::Env env, Napi::Function on_batch, NativeReader* self, SealedBatch* batch);
  using Queue = Napi::TypedThreadSafeFunction<NativeReader, SealedBatch, &NativeReader::deliver>;

  Napi::Value start(const Napi::CallbackInfo& info);
  void set_filters(const Napi::CallbackInfo& info);
  Napi::Value counters(const Napi::CallbackInfo& info);
  void flush(const Napi::CallbackInfo& info);
  void set_linger(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

  Napi::Object count(Napi::Env env);
  bool enqueue(std::unique_ptr<SealedBatch> batch);
  void finished(Napi::Env env);
  static void environment_ends(void* self);

  std::unique_ptr<Reader> reader_;
  Napi::FunctionReference on_batch_;
  size_t queue_max_ = 0;
  Queue queue_;
  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable room_;
  bool abandoned_ = false;  // under mutex_
  std::atomic<uint64_t> queue_full_{0};
  std::unique_ptr<Napi::Promise::Deferred> closing_;
};

// start(filters): { hooks, pinned, resumed, note }
Napi::Value NativeReader::start(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Filters filters = to_filters(info[0].As<Napi::Object>());
  const std::vector<HookReport> reports = guarded(env, [&] {
    try {
      return reader_->open([&] { apply_filters(reader_->loader(), filters); });
    } catch (...) {
      reader_.reset();  // now, not when JavaScript collects this: its locks and programs would linger
      throw;
    }
  });

  queue_ = Queue::New(env, on_batch_.Value(), "tidegate reader", queue_max_, 1, this,
                      [](Napi::Env ended, void*, NativeReader* self) { self->finished(ended); }, static_cast<void*>(nullptr));
  // Added after the queue's own hook, so it runs before that: the thread is gone before its queue is.
  napi_add_env_cleanup_hook(env, environment_ends, this);
  Ref();
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "tidegate-reader");  // as ps and perf show it
    reader_->run([this](std::unique_ptr<SealedBatch> batch) { return enqueue(std::move(batch)); });
    const std::lock_guard lock(mutex_);
    if (!abandoned_) queue_.Release();
  });

  Napi::Array hooks = Napi::Array::New(env, reports.size());
  for (uint32_t index = 0; index < reports.size(); index++) {
    const HookReport& report = reports[index];
    Napi::Object hook = Napi::Object::New(env);
    hook.Set("hook", report.hook);
    hook.Set("program", report.program);
    hook.Set("attached", report.attached);
    if (!report.attached) hook.Set("error", report.error);
    hooks.Set(index, hook);
  }
  const Pinning& pinning = reader_->loader().pinning();
  Napi::Object result = Napi::Object::New(env);
  result.Set("hooks", hooks);
  result.Set("pinned", pinning.pinned);
  result.Set("resumed", pinning.resumed);
  result.Set("note", pinning.note);
  return result;
}

// On the reader's thread.
bool NativeReader::enqueue(std::unique_ptr<SealedBatch> batch) {
  std::unique_lock lock(mutex_);
  while (!abandoned_) {
    const napi_status status = queue_.NonBlockingCall(batch.get());
    if (status == napi_ok) {
      batch.release();
      return true;
    }
    if (status != napi_queue_full) return false;
    queue_full_.fetch_add(1, std::memory_order_relaxed);
    room_.wait(lock);
  }
  return false;
}

// On JavaScript's thread, for each batch; without an environment when the queue is emptied at its end.
void NativeReader::deliver(Napi::Env env, Napi::Function on_batch, NativeReader* self, SealedBatch* batch) {
  std::unique_ptr<SealedBatch> owned(batch);
  if (env == nullptr) return;
  {
    const std::lock_guard lock(self->mutex_);
    self->room_.notify_one();
  }
  uint8_t* const payload = owned->payload.release();
  Napi::Object result = Napi::Object::New(env);
  result.Set("payload", Napi::Buffer<uint8_t>::New(env, payload, owned->size, [](Napi::Env, uint8_t* bytes) { delete[] bytes; }));
  result.Set("batch", number(env, owned->number));
  result.Set("events", number(env, owned->events));
  result.Set("firstSequence", number(env, owned->first_sequence));
  result.Set("lastSequence", number(env, owned->last_sequence));
  result.Set("encoding", owned->zstd ? "zstd" : "none");
  on_batch.Call({result});
}

void NativeReader::set_filters(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] { apply_filters(reader_->loader(), to_filters(info[0].As<Napi::Object>())); });
  reader_->request(Reader::Request::SYNCHRONISE);
}

Napi::Value NativeReader::counters(const Napi::CallbackInfo& info) { return count(info.Env()); }

Napi::Object NativeReader::count(Napi::Env env) {
  const ReaderCounters& own = reader_->counters();
  const tg_counters kernel = reader_->kernel_counters();
  Napi::Object result = Napi::Object::New(env);
  const auto set = [&](const char* name, uint64_t value) { result.Set(name, number(env, value)); };
  set("events", own.events);
  set("batches", own.batches);
  set("bytes", own.bytes);
  set("plainBytes", own.plain_bytes);
  set("lastSequence", own.last_sequence);
  set("malformedRecords", own.malformed + own.malformed_in_ring);
  set("unknownProcesses", own.unknown_processes);
  set("synchronisations", own.synchronisations);
  set("processes", own.processes);
  set("processesRunning", own.processes_running);
  set("processesEvicted", own.processes_evicted);
  set("cgroups", own.cgroups);
  set("cgroupsEvicted", own.cgroups_evicted);
  set("containersNotDescribed", own.containers_not_described);
  set("containersUndescribed", own.containers_undescribed);
  set("queueFull", queue_full_);
  set("cpuNs", own.cpu_ns);
  set("lifecycleRecords", kernel.submitted[TG_RING_LIFECYCLE]);
  set("dataRecords", kernel.submitted[TG_RING_DATA]);
  set("lostForks", kernel.lost_fork);
  set("lostCgroups", kernel.lost_cgroup);
  set("untrackedAccepts", kernel.untracked_accepts);
  result.Set("lostByKind", by_kind(env, kernel.lost_by_kind));
  result.Set("filteredByKind", by_kind(env, kernel.filtered_by_kind));
  return result;
}

void NativeReader::flush(const Napi::CallbackInfo&) { reader_->request(Reader::Request::FLUSH); }

void NativeReader::set_linger(const Napi::CallbackInfo& info) { reader_->set_linger(nanoseconds(info[0])); }

// close(unpin): resolves with the last counters when the thread has ended and everything is freed. Called once, after start().
Napi::Value NativeReader::close(const Napi::CallbackInfo& info) {
  closing_ = std::make_unique<Napi::Promise::Deferred>(info.Env());
  reader_->request(Reader::Request::STOP | (info[0].ToBoolean() ? uint32_t{Reader::Request::UNPIN} : 0u));
  return closing_->Promise();
}

// The queue's end, on JavaScript's thread: after the last batch, or when the environment ends.
void NativeReader::finished(Napi::Env env) {
  if (thread_.joinable()) thread_.join();
  napi_remove_env_cleanup_hook(env, environment_ends, this);
  if (closing_ != nullptr) closing_->Resolve(count(env));
  closing_.reset();
  reader_.reset();
  Unref();
}

void NativeReader::environment_ends(void* data) {
  auto* const self = static_cast<NativeReader*>(data);
  {
    const std::lock_guard lock(self->mutex_);
    self->abandoned_ = true;
    self->room_.notify_one();
  }
  self->reader_->request(Reader::Request::ABANDON);
  if (self->thread_.joinable()) self->thread_.join();
  self->queue_.Abort();
}

class StormWorker : public Napi::AsyncWorker {
 public:
  StormWorker(Napi::Env env, StormOptions options)
      : Napi::AsyncWorker(env, "tidegate storm"), deferred_(env), options_(std::move(options)) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 private:
  void Execute() override { run_storm(options_); }
  void OnOK() override { deferred_.Resolve(Env().Undefined()); }
  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

  Napi::Promise::Deferred deferred_;
  StormOptions options_;
};

// stormPinned({ objectFile, pinDirectory, events, pid, startKtimeNs, execGeneration, cgroupIds })
Napi::Value storm_pinned(const Napi::CallbackInfo& info) {
  const auto value = info[0].As<Napi::Object>();
  StormOptions options;
  options.object_file = to_string(value.Get("objectFile"));
  options.pin_directory = to_string(value.Get("pinDirectory"));
  options.events = to_u64(value.Get("events"));
  options.process.pid = value.Get("pid").ToNumber();
  options.process.start_ktime_ns = to_u64(value.Get("startKtimeNs"));
  options.process.exec_generation = to_u64(value.Get("execGeneration"));
  const auto cgroups = value.Get("cgroupIds").As<Napi::Array>();
  for (uint32_t index = 0; index < cgroups.Length(); index++) options.cgroup_ids.push_back(to_u64(cgroups.Get(index)));
  auto* const worker = new StormWorker(info.Env(), std::move(options));
  worker->Queue();
  return worker->promise();
}

// readState(path): what a sensor's state file holds, or null.
Napi::Value read_state(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::optional<SensorState> state = guarded(env, [&] { return StateFile::read(to_string(info[0])); });
  if (!state) return env.Null();
  Napi::Object result = Napi::Object::New(env);
  result.Set("nextSequence", number(env, state->next_sequence));
  result.Set("lastBatch", number(env, state->last_batch));
  result.Set("lastKtimeNs", Napi::BigInt::New(env, state->last_ktime_ns));
  result.Set("boot", std::string(state->boot));
  result.Set("kernelBoot", std::string(state->kernel_boot));
  return result;
}

// bpfError(): why this process may not make a BPF map; empty: it may.
Napi::Value bpf_error(const Napi::CallbackInfo& info) {
  LibbpfLog log;
  const int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "tidegate_probe", sizeof(uint32_t), sizeof(uint32_t), 1, nullptr);
  const int error = errno;
  if (fd >= 0) ::close(fd);
  return Napi::String::New(info.Env(), fd >= 0 ? "" : strerror(error));
}

Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  exports.Set("NativeReader", NativeReader::define(env));
  exports.Set("readState", Napi::Function::New<read_state>(env));
  exports.Set("stormPinned", Napi::Function::New<storm_pinned>(env));
  exports.Set("bpfError", Napi::Function::New<bpf_error>(env));
  return exports;
}

}  // namespace tidegate

static Napi::Object initialise_module(Napi::Env env, Napi::Object exports) { return tidegate::initialise(env, exports); }

NODE_API_MODULE(tidegate, initialise_module)
