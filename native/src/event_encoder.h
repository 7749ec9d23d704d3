// SPDX-License-Identifier: Apache-2.0
// Records as messages of packages/contracts/proto/tidegate/v1/events.proto: one function per kind.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "process_table.h"
#include "protobuf_writer.h"
#include "records.h"
#include "schema.h"

namespace tidegate {

// Whether the kernel sends events of this kind, and the record is long enough for it.
bool is_event(const tg_header& record);

// The fields kind, process, sequence, ktime_ns, tid and detail of an Event.
void encode_event(ProtobufWriter& out, const tg_header& record, uint32_t process_id, uint64_t sequence);

struct Loss {
  schema::LossReason reason = schema::LossReason::UNSPECIFIED;
  uint64_t count = 0;
  uint64_t first_sequence = 0, last_sequence = 0;
  uint64_t from_ktime_ns = 0, to_ktime_ns = 0;
  std::array<uint64_t, TG_KIND_MAX> by_kind{};
};
void encode_loss(ProtobufWriter& out, const Loss& loss, uint64_t sequence);

// What execve set, as fields of Process.
struct ImageSource {
  std::string_view binary, cwd;
  std::string_view arguments;  // strings each ended by NUL
  bool arguments_truncated = false;
  bool kernel_thread = false;
};
constexpr size_t BRIEF_ARGUMENTS_MAX = 256;
void encode_image(ProtobufWriter& out, const ImageSource& source, size_t arguments_max);

// The fields entry_arguments, entry_arguments_truncated and entry_terminal of Process, for a program that entered a container. raw_path: the path its caller gave.
void encode_entry(ProtobufWriter& out, const ImageSource& source, std::string_view raw_path, bool has_terminal);

// base64("<node>:<start_ktime_ns + exec_generation>:<pid>")
std::string exec_id(std::string_view node, const ProcessKey& key);

}  // namespace tidegate
