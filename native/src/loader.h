// SPDX-License-Identifier: Apache-2.0
// Loads the BPF object, attaches its programs, and keeps both alive in bpffs, so that a restarted sensor takes them up and reads on.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "records.h"

struct bpf_link;
struct bpf_object;

namespace tidegate {

struct LoaderOptions {
  std::string object_file;
  std::string pin_directory;  // on a bpffs; empty: not pinned
  uint32_t lifecycle_ring_bytes = 0, data_ring_bytes = 0;
};

struct HookReport {
  std::string hook, program, error;
  bool attached = false;
};

struct Pinning {
  bool pinned = false;
  bool resumed = false;  // rings of an earlier sensor were taken up
  std::string note;  // why it is not pinned
};

// A fault at loading. libbpf's own words are in the message.
class LoadError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The folder in which the running sensor has its pins. Throws LoadError when there is none.
std::string pinned_folder(const std::string& pin_directory);

class Loader {
 public:
  explicit Loader(LoaderOptions options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // Opens, loads, attaches and pins, in this order. A program that this kernel refuses is reported and the others go on.
  // before_attach is called when the maps are there and nothing new has been attached. Throws LoadError.
  std::vector<HookReport> load(const std::function<void()>& before_attach);
  const Pinning& pinning() const { return pinning_; }

  // File descriptor of a map. Throws LoadError when the object has none of this name.
  int map(const char* name) const;
  uint32_t map_id(const char* name) const;

  // Runs the task iterator over all processes. False when this kernel has none.
  bool each_task(const std::function<void(const tg_exec&)>& visit) const;
  // Who forked the process, where its parent is another by now and the kernel's map still holds it.
  std::optional<tg_process_key> forker(const ProcessKey& process) const;
  // Runs the iterator that finds the owners of sockets older than the sensor.
  void claim_sockets() const;

  // Lets go of the programs. unpin: for good, also those of earlier sensors; else pinned programs go on writing to the rings.
  void detach(bool unpin);
  // After detach(true): removes the maps from bpffs too.
  void remove_pins();

 private:
  void open_object(const std::map<std::string, std::string>& refused);
  std::map<std::string, std::string> load_object();
  void close_object();
  void prepare_pins();
  void let_go(const std::string& program);
  // Reads the iterator to its end. False when there is none, or visit says so.
  bool iterate(const char* hook, const std::function<bool(std::vector<char>& unread)>& visit) const;
  std::string pin_path(const char* name) const { return folder_ + "/" + name; }

  LoaderOptions options_;
  Pinning pinning_;
  std::string folder_;  // of the pins; empty: not pinned
  bpf_object* object_ = nullptr;
  std::map<std::string, bpf_link*> links_;  // by program
  std::map<std::string, bpf_link*> iterators_;  // by hook; never pinned
};

}  // namespace tidegate
