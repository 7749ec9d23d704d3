// SPDX-License-Identifier: Apache-2.0
#include "loader.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdarg>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <thread>

#include "libbpf_log.h"

namespace tidegate {
namespace {

constexpr std::string_view ITERATOR_SECTION = "iter/";
constexpr std::string_view TRACEPOINT_SECTION = "tp_btf/";
constexpr size_t ITERATOR_READ_BYTES = 256 * 1024;
constexpr size_t FOLDER_NAME_LENGTH = 16;
constexpr int LOAD_ATTEMPTS = 20;
constexpr auto LOAD_PAUSE = std::chrono::milliseconds(10);
// Two programs for one thing: the second takes the first one's place where the kernel does not attach that.
constexpr std::string_view PREFERRED = "inet_csk_accept";
constexpr std::string_view SUBSTITUTE = "sys_exit";

// FNV-1a of the object and the sizes of its rings: what must be equal for a sensor to go on with another's maps and programs.
std::string fingerprint(const LoaderOptions& options) {
  std::ifstream file(options.object_file, std::ios::binary);
  if (!file) throw LoadError("cannot read " + options.object_file + ": " + strerror(errno));
  std::string content{std::istreambuf_iterator<char>(file), {}};
  content.append(std::to_string(options.lifecycle_ring_bytes)).append(":").append(std::to_string(options.data_ring_bytes));
  uint64_t hash = 0xcbf29ce484222325;
  for (const char byte : content) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
  char name[FOLDER_NAME_LENGTH + 1];
  snprintf(name, sizeof(name), "%016llx", static_cast<unsigned long long>(hash));
  return name;
}

bool is_fingerprint(std::string_view name) {
  return name.size() == FOLDER_NAME_LENGTH && name.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// Whether the nearest parent folder that exists is on a bpffs.
bool on_bpffs(std::string path) {
  struct statfs status;
  while (statfs(path.c_str(), &status) != 0) {
    const size_t slash = path.rfind('/');
    if (errno != ENOENT || slash == std::string::npos) return false;
    path.resize(slash == 0 ? 1 : slash);
  }
  return status.f_type == BPF_FS_MAGIC;
}

void make_folders(const std::string& path) {
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const std::string folder = path.substr(0, slash);
    if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) throw LoadError("cannot make " + folder + ": " + strerror(errno));
    if (slash == std::string::npos) return;
  }
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  DIR* const directory = opendir(folder.c_str());
  if (directory == nullptr) return names;
  while (const dirent* entry = readdir(directory)) {
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  closedir(directory);
  return names;
}

void remove_folder(const std::string& folder) {
  for (const std::string& name : names_in(folder)) unlink((folder + "/" + name).c_str());
  rmdir(folder.c_str());
}

std::string_view hook_of(const bpf_program* program) {
  const std::string_view section = bpf_program__section_name(program);
  const size_t slash = section.find('/');
  return slash == std::string_view::npos ? section : section.substr(slash + 1);
}

// While it lives, signals go to other threads, or wait: the kernel gives up verifying a program for any that is pending (EAGAIN).
class HeldSignals {
 public:
  HeldSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~HeldSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;

 private:
  sigset_t before_;
};

bool is_iterator(const bpf_program* program) { return std::string_view(bpf_program__section_name(program)).starts_with(ITERATOR_SECTION); }

}  // namespace

std::string pinned_folder(const std::string& pin_directory) {
  for (const std::string& name : names_in(pin_directory)) {
    if (is_fingerprint(name)) return pin_directory + "/" + name;
  }
  throw LoadError("no sensor has pinned its maps in " + pin_directory);
}

Loader::Loader(LoaderOptions options) : options_(std::move(options)) {}

Loader::~Loader() {
  detach(false);
  if (object_ != nullptr) bpf_object__close(object_);
}

std::vector<HookReport> Loader::load(const std::function<void()>& before_attach) {
  prepare_pins();
  const std::map<std::string, std::string> refused = load_object();
  before_attach();

  std::vector<HookReport> reports;
  bpf_program* program;
  bool preferred = false;
  bpf_object__for_each_program(program, object_) {
    const std::string name = bpf_program__name(program);
    if (name == SUBSTITUTE && preferred) {
      let_go(name);
      continue;
    }
    HookReport report{std::string(hook_of(program)), name, {}, links_.contains(name)};
    if (const auto failure = refused.find(name); failure != refused.end()) {
      report.error = failure->second;
    } else if (!report.attached && !bpf_program__autoload(program)) {
      report.error = "this kernel has no tracepoint " + report.hook;
    } else if (!report.attached) {
      LibbpfLog log;
      bpf_link* const link = is_iterator(program) ? bpf_program__attach_iter(program, nullptr) : bpf_program__attach(program);
      if (link == nullptr) {
        report.error = strerror(errno) + (": " + log.text());
      } else if (is_iterator(program)) {
        iterators_.emplace(report.hook, link);
        report.attached = true;
      } else {
        links_.emplace(name, link);
        report.attached = true;
        if (!folder_.empty() && bpf_link__pin(link, pin_path(name.c_str()).c_str()) != 0) {
          throw LoadError("cannot pin " + pin_path(name.c_str()) + ": " + strerror(errno) + ": " + log.text());
        }
      }
    }
    if (name == PREFERRED) preferred = report.attached;
    reports.push_back(std::move(report));
  }
  // One of the two is as it should be.
  const auto substitute = std::find_if(reports.begin(), reports.end(), [](const auto& each) { return each.program == SUBSTITUTE; });
  if (substitute != reports.end() && substitute->attached) std::erase_if(reports, [](const auto& each) { return each.program == PREFERRED; });
  // Only now, so that there was no moment without programs.
  if (!folder_.empty()) {
    for (const std::string& name : names_in(options_.pin_directory)) {
      const std::string other = options_.pin_directory + "/" + name;
      if (is_fingerprint(name) && other != folder_) remove_folder(other);
    }
  }
  return reports;
}

// Returns the programs that the kernel refused, with its reasons.
std::map<std::string, std::string> Loader::load_object() {
  // libbpf loads all programs or none, and tells only in its log which one failed: leave that one out and try again.
  std::map<std::string, std::string> refused;
  const HeldSignals held;
  for (int interrupted = 0;;) {
    open_object(refused);
    LibbpfLog log;
    const int error = bpf_object__load(object_);
    if (error == 0) return refused;
    // Work that the kernel has for this thread counts as a signal too, and cannot be held.
    if (error == -EAGAIN && ++interrupted < LOAD_ATTEMPTS) {
      close_object();
      std::this_thread::sleep_for(LOAD_PAUSE);
      continue;
    }
    const std::string program = log.failed_program();
    const std::string reason = strerror(-error) + (": " + log.text());
    if (program.empty() || refused.contains(program)) throw LoadError("cannot load " + options_.object_file + ": " + reason);
    refused.emplace(program, reason);
    close_object();
  }
}

void Loader::close_object() {
  detach(false);
  bpf_object__close(object_);
  object_ = nullptr;
}

void Loader::prepare_pins() {
  if (options_.pin_directory.empty()) return;
  if (!on_bpffs(options_.pin_directory)) {
    pinning_.note = options_.pin_directory + " is not on a bpffs: events are missed while the sensor restarts";
    return;
  }
  folder_ = options_.pin_directory + "/" + fingerprint(options_);
  make_folders(folder_);
  pinning_.pinned = true;
  pinning_.resumed = access(pin_path("lifecycle_ring").c_str(), F_OK) == 0 && access(pin_path("data_ring").c_str(), F_OK) == 0;
}

// Opens the object with its maps set to those pinned, and without the programs that are pinned, refused, or have no tracepoint here.
void Loader::open_object(const std::map<std::string, std::string>& refused) {
  LibbpfLog log;
  object_ = bpf_object__open_file(options_.object_file.c_str(), nullptr);
  if (object_ == nullptr) throw LoadError("cannot open " + options_.object_file + ": " + strerror(errno) + ": " + log.text());

  const auto set_ring = [&](const char* name, uint32_t bytes) {
    bpf_map* const ring = bpf_object__find_map_by_name(object_, name);
    const int error = ring == nullptr ? -ENOENT : bpf_map__set_max_entries(ring, bytes);
    if (error != 0) throw LoadError(std::string("cannot set the size of ") + name + ": " + strerror(-error));
  };
  set_ring("lifecycle_ring", options_.lifecycle_ring_bytes);
  set_ring("data_ring", options_.data_ring_bytes);

  bpf_map* map;
  bpf_object__for_each_map(map, object_) {
    // Read-only data belongs to the programs and stays with them.
    if (!folder_.empty() && !bpf_map__is_internal(map)) bpf_map__set_pin_path(map, pin_path(bpf_map__name(map)).c_str());
  }

  bpf_program* program;
  bpf_object__for_each_program(program, object_) {
    const std::string name = bpf_program__name(program);
    const std::string_view section = bpf_program__section_name(program);
    const bool missing = section.starts_with(TRACEPOINT_SECTION) &&
                         libbpf_find_vmlinux_btf_id(std::string(hook_of(program)).c_str(), BPF_TRACE_RAW_TP) < 0;
    bpf_link* const pinned = folder_.empty() ? nullptr : bpf_link__open(pin_path(name.c_str()).c_str());
    if (pinned != nullptr) links_.emplace(name, pinned);
    bpf_program__set_autoload(program, pinned == nullptr && !missing && !refused.contains(name));
  }
}

// Detaches a program that an earlier sensor has pinned.
void Loader::let_go(const std::string& program) {
  const auto link = links_.find(program);
  if (link == links_.end()) return;
  unlink(pin_path(program.c_str()).c_str());
  bpf_link__destroy(link->second);
  links_.erase(link);
}

int Loader::map(const char* name) const {
  const int fd = bpf_object__find_map_fd_by_name(object_, name);
  if (fd < 0) throw LoadError(options_.object_file + " has no map " + name);
  return fd;
}

uint32_t Loader::map_id(const char* name) const {
  bpf_map_info info{};
  uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(map(name), &info, &size) != 0) throw LoadError(std::string("cannot ask for the id of map ") + name);
  return info.id;
}

bool Loader::iterate(const char* hook, const std::function<bool(std::vector<char>& unread)>& visit) const {
  const auto link = iterators_.find(hook);
  const int iteration = link == iterators_.end() ? -1 : bpf_iter_create(bpf_link__fd(link->second));
  if (iteration < 0) return false;
  std::vector<char> unread;
  ssize_t count;
  bool good = true;
  do {
    const size_t filled = unread.size();
    unread.resize(filled + ITERATOR_READ_BYTES);
    count = read(iteration, unread.data() + filled, ITERATOR_READ_BYTES);
    const bool again = count < 0 && (errno == EAGAIN || errno == EINTR);
    unread.resize(filled + static_cast<size_t>(std::max<ssize_t>(count, 0)));
    if (again) count = 1;
    good = count >= 0 && visit(unread);
  } while (good && count > 0);
  close(iteration);
  return good;
}

bool Loader::each_task(const std::function<void(const tg_exec&)>& visit) const {
  std::vector<uint64_t> record;
  return iterate("task", [&](std::vector<char>& unread) {
    // Records follow each other without padding, and a read may end within one.
    size_t at = 0;
    while (unread.size() - at >= sizeof(tg_exec)) {
      uint32_t size;
      memcpy(&size, unread.data() + at + offsetof(tg_header, size), sizeof(size));
      if (size < sizeof(tg_exec) || size > ITERATOR_READ_BYTES) return false;
      if (unread.size() - at < size) break;
      record.resize((size + sizeof(uint64_t) - 1) / sizeof(uint64_t));
      memcpy(record.data(), unread.data() + at, size);
      visit(*reinterpret_cast<const tg_exec*>(record.data()));
      at += size;
    }
    unread.erase(unread.begin(), unread.begin() + static_cast<ptrdiff_t>(at));
    return true;
  });
}

std::optional<tg_process_key> Loader::forker(const ProcessKey& process) const {
  const tg_process_start start{process.start_ktime_ns, process.pid, 0};
  tg_process_key forker;
  if (bpf_map_lookup_elem(map("forkers"), &start, &forker) != 0) return std::nullopt;
  return forker;
}

void Loader::claim_sockets() const {
  iterate("task_file", [](std::vector<char>&) { return true; });
}

void Loader::detach(bool unpin) {
  for (const auto& [program, link] : links_) {
    if (unpin && !folder_.empty()) unlink(pin_path(program.c_str()).c_str());
    bpf_link__destroy(link);
  }
  links_.clear();
  for (const auto& [hook, link] : iterators_) bpf_link__destroy(link);
  iterators_.clear();
}

void Loader::remove_pins() {
  if (folder_.empty()) return;
  remove_folder(folder_);
  rmdir(options_.pin_directory.c_str());  // stays when something else is in it
}

}  // namespace tidegate
