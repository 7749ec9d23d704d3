// SPDX-License-Identifier: Apache-2.0
#include "storm.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "libbpf_log.h"
#include "loader.h"

namespace tidegate {
namespace {

// bpf_loop's own bound is 8 Mi; a run cannot be interrupted.
constexpr uint64_t EVENTS_PER_RUN = 65'536;

// Context of the program, as in bench_storm.bpf.c.
struct StormRun {
  uint64_t events;
  ProcessKey process;
  uint32_t cgroups, pad;
};

}  // namespace

void run_storm(const StormOptions& options) {
  const std::string folder = pinned_folder(options.pin_directory);
  LibbpfLog log;
  const auto check = [&](bool good, const char* what) {
    if (!good) throw LoadError(std::string(what) + " of " + options.object_file + ": " + strerror(errno) + ": " + log.text());
  };
  const std::unique_ptr<bpf_object, decltype(&bpf_object__close)> object(bpf_object__open_file(options.object_file.c_str(), nullptr),
                                                                         bpf_object__close);
  check(object != nullptr, "opening");
  bpf_map* map;
  bpf_object__for_each_map(map, object.get()) {
    const int shared = bpf_obj_get((folder + "/" + bpf_map__name(map)).c_str());
    if (shared < 0) continue;  // its own
    const int error = bpf_map__reuse_fd(map, shared);  // which duplicates it
    close(shared);
    check(error == 0, "sharing the maps");
  }
  check(bpf_object__load(object.get()) == 0, "loading");

  const int cgroups = bpf_object__find_map_fd_by_name(object.get(), "bench_cgroups");
  for (uint32_t index = 0; index < options.cgroup_ids.size(); index++) {
    check(bpf_map_update_elem(cgroups, &index, &options.cgroup_ids[index], BPF_ANY) == 0, "setting the cgroups");
  }
  const bpf_program* const program = bpf_object__find_program_by_name(object.get(), "bench_storm");
  check(program != nullptr, "finding the program");
  for (uint64_t left = options.events; left != 0;) {
    StormRun run{std::min(left, EVENTS_PER_RUN), options.process, static_cast<uint32_t>(options.cgroup_ids.size()), 0};
    LIBBPF_OPTS(bpf_test_run_opts, call, .ctx_in = &run, .ctx_size_in = sizeof(run));
    check(bpf_prog_test_run_opts(bpf_program__fd(program), &call) == 0, "running");
    left -= run.events;
  }
}

}  // namespace tidegate
