// SPDX-License-Identifier: Apache-2.0
// Looks at every field of every type of record as the kernel wrote it into rings that were full of a pattern; for tests.
// ring_fields <tidegate.bpf.o> <test_stain.bpf.o> <folder in the cgroup2 hierarchy>. Says what is wrong on standard error.
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "../../src/filters.h"
#include "../../src/libbpf_log.h"
#include "../../src/loader.h"
#include "../../src/ring_reader.h"

using namespace tidegate;

#define CHECK(condition)                                                                     \
  do {                                                                                       \
    if (!(condition)) {                                                                      \
      fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, about.c_str());            \
      std::exit(1);                                                                          \
    }                                                                                        \
  } while (0)

namespace {

constexpr uint32_t RING_BYTES = 1 << 20;
constexpr uint32_t STAIN = 0xa5a5a5a5;
constexpr int TURNS = 20;
constexpr int BACKLOG = 3;
constexpr uint64_t PATIENCE_NS = 20'000'000'000;

std::string about;  // the record in hand

uint64_t clock_ns(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

template <size_t SIZE>
bool is_text(const char (&bytes)[SIZE], size_t length) {
  for (size_t index = 0; index < SIZE; index++) {
    if ((bytes[index] != 0) != (index < length)) return false;
  }
  return true;
}

template <size_t SIZE>
bool is_zero(const uint8_t (&bytes)[SIZE], size_t from) {
  for (size_t index = from; index < SIZE; index++) {
    if (bytes[index] != 0) return false;
  }
  return true;
}

// Fields of 2 bytes and less, padding and the tails of texts are looked at one by one; of wider ones none can hold the pattern by chance.
void check_words(const tg_header& record, size_t size) {
  for (size_t at = 0; at + sizeof(STAIN) <= size; at += sizeof(STAIN)) {
    uint32_t word;
    memcpy(&word, reinterpret_cast<const char*>(&record) + at, sizeof(word));
    about = "type " + std::to_string(record.type) + ", byte " + std::to_string(at);
    CHECK(word != STAIN);
  }
}

void check_key(const ProcessKey& key) {
  CHECK(key.pad == 0);
  CHECK((key.pid == 0) == (key.start_ktime_ns == 0));
}

void check_exec(const tg_exec& exec) {
  ExecStrings strings;
  CHECK(exec_strings(exec, strings));
  CHECK(exec.header.size == sizeof(tg_exec) + exec.binary_size + exec.cwd_size + exec.raw_path_size + exec.arguments_size);
  check_key(exec.parent);
  CHECK(exec.pad == 0 && exec.namespaces.pad == 0 && exec.flags < TG_EXEC_KERNEL_THREAD);
  CHECK(is_text(exec.tty, strnlen(exec.tty, sizeof(exec.tty))) && is_text(exec.comm, strnlen(exec.comm, sizeof(exec.comm))));
}

void check_exit(const tg_exit& exit) {
  check_key(exit.parent);
  CHECK(exit.pad == 0 && exit.status <= 0xffff);
  const uint64_t lived_ns = exit.header.ktime_ns - exit.header.process.start_ktime_ns;
  const uint64_t most_ns = lived_ns * static_cast<uint64_t>(libbpf_num_possible_cpus());
  CHECK(exit.user_ns <= most_ns && exit.system_ns <= most_ns);
}

void check_socket(const tg_socket& socket) {
  CHECK(socket.family == AF_INET || socket.family == AF_INET6);
  if (socket.family == AF_INET) CHECK(is_zero(socket.source_address, 4) && is_zero(socket.destination_address, 4));
  const uint16_t type = socket.header.type;
  CHECK(socket.cookie != 0 && socket.network_namespace != 0);
  CHECK(socket.error == 0 || (type == TG_RECORD_CONNECT && socket.error < 133));
  CHECK(socket.backlog == 0 || type == TG_RECORD_LISTEN);
  CHECK((socket.bytes_sent == 0 && socket.bytes_received == 0) || type == TG_RECORD_CLOSE);
  if (type == TG_RECORD_LISTEN) CHECK(is_zero(socket.destination_address, 0) && socket.destination_port == 0);
  CHECK(socket.established_ktime_ns <= socket.header.ktime_ns);
}

void check(const tg_header& record) {
  const bool is_cgroup = record.type == TG_RECORD_CGROUP_MKDIR || record.type == TG_RECORD_CGROUP_RMDIR;
  check_words(record, record.type == TG_RECORD_EXEC ? sizeof(tg_exec) : record.size);
  about = "type " + std::to_string(record.type) + " of pid " + std::to_string(record.process.pid);
  CHECK(record.flags <= (TG_FLAG_HIDDEN | TG_FLAG_NO_OWNER));
  CHECK(record.ktime_ns != 0 && record.ktime_ns <= clock_ns(CLOCK_BOOTTIME));
  check_key(record.process);
  if (record.type == TG_RECORD_EXEC) check_exec(reinterpret_cast<const tg_exec&>(record));
  if (record.type == TG_RECORD_EXIT) check_exit(reinterpret_cast<const tg_exit&>(record));
  if (record.type == TG_RECORD_FORK) {
    const auto& fork = reinterpret_cast<const tg_fork&>(record);
    check_key(fork.parent);
    check_key(fork.forker);
  }
  if (is_cgroup) {
    const auto& cgroup = reinterpret_cast<const tg_cgroup&>(record);
    CHECK(cgroup.pad == 0 && cgroup.level <= 256 && cgroup.id != 0);
    CHECK(is_text(cgroup.path, cgroup.path_size));
  }
  const uint32_t socket_types = 1 << TG_RECORD_CONNECT | 1 << TG_RECORD_ACCEPT | 1 << TG_RECORD_LISTEN | 1 << TG_RECORD_CLOSE;
  if (record.type < TG_KIND_MAX && socket_types & (1U << record.type)) check_socket(reinterpret_cast<const tg_socket&>(record));
}

void stain(const Loader& loader, const char* object_file, RingReader& lifecycle, RingReader& data) {
  LibbpfLog log;
  bpf_object* const object = bpf_object__open_file(object_file, nullptr);
  about = object_file;
  CHECK(object != nullptr);
  for (const char* name : {"lifecycle_ring", "data_ring"}) {
    CHECK(bpf_map__reuse_fd(bpf_object__find_map_by_name(object, name), loader.map(name)) == 0);
  }
  const int error = bpf_object__load(object);
  about += ": " + log.text();
  CHECK(error == 0);
  const int program = bpf_program__fd(bpf_object__find_program_by_name(object, "test_stain"));
  // A full ring keeps a record's length free: the second round begins elsewhere and covers that too.
  for (int round = 0; round < 2; round++) {
    LIBBPF_OPTS(bpf_test_run_opts, call);
    CHECK(bpf_prog_test_run_opts(program, &call) == 0);
    for (RingReader* ring : {&lifecycle, &data}) {
      ring->snapshot();
      while (const tg_header* record = ring->peek()) {
        check(*record);
        ring->advance();
      }
      ring->release();
    }
  }
  bpf_object__close(object);
}

void run_true() {
  const pid_t child = fork();
  if (child == 0) {
    execl("/bin/true", "true", nullptr);
    _exit(1);
  }
  waitpid(child, nullptr, 0);
}

void connect_once() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  socklen_t length = sizeof(address);
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  CHECK(bind(listener, reinterpret_cast<sockaddr*>(&address), length) == 0 && listen(listener, BACKLOG) == 0);
  CHECK(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) == 0);
  const int client = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(connect(client, reinterpret_cast<sockaddr*>(&address), length) == 0);
  const int server = accept(listener, nullptr, nullptr);
  CHECK(server >= 0);
  close(client);
  char byte;
  CHECK(read(server, &byte, 1) == 0);
  close(server);
  close(listener);
  // Refused: nobody listens there any more.
  const int refused = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(connect(refused, reinterpret_cast<sockaddr*>(&address), length) != 0 && errno == ECONNREFUSED);
  close(refused);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  Loader loader({argv[1], "", RING_BYTES, RING_BYTES});
  Filters everything;
  everything.words.kinds = ~0U;
  loader.load([&] { apply_filters(loader, everything); });
  RingReader lifecycle(loader.map("lifecycle_ring"), RING_BYTES), data(loader.map("data_ring"), RING_BYTES);
  stain(loader, argv[2], lifecycle, data);

  for (int turn = 0; turn < TURNS; turn++) {
    run_true();
    about = std::string("folder ") + argv[3];
    const std::string folder = std::string(argv[3]) + "/turn";
    CHECK(mkdir(folder.c_str(), 0755) == 0 && rmdir(folder.c_str()) == 0);
    about = "connecting";
    connect_once();
  }

  // Type to how many of this process and its children; of a child's exec and exit as many as turns.
  const uint16_t TYPES[] = {TG_RECORD_FORK,   TG_RECORD_EXEC,   TG_RECORD_EXIT,         TG_RECORD_CONNECT,     TG_RECORD_ACCEPT,
                            TG_RECORD_LISTEN, TG_RECORD_CLOSE, TG_RECORD_CGROUP_MKDIR, TG_RECORD_CGROUP_RMDIR};
  std::map<uint16_t, int> seen;
  const auto complete = [&] {
    for (const uint16_t type : TYPES) {
      if (seen[type] < TURNS) return false;
    }
    return true;
  };
  const uint64_t give_up_ns = clock_ns(CLOCK_MONOTONIC) + PATIENCE_NS;
  while (!complete() && clock_ns(CLOCK_MONOTONIC) < give_up_ns) {
    for (RingReader* ring : {&lifecycle, &data}) {
      ring->snapshot();
      while (const tg_header* record = ring->peek()) {
        check(*record);
        seen[record->type]++;
        ring->advance();
      }
      ring->release();
    }
  }
  for (const uint16_t type : TYPES) {
    about = "type " + std::to_string(type);
    CHECK(seen[type] >= TURNS);
  }
  return 0;
}
