// SPDX-License-Identifier: Apache-2.0
#include "event_encoder.h"

#include <arpa/inet.h>

#include <charconv>

#include "utf8_text.h"

namespace tidegate {
namespace {

// Field numbers of Event; a detail's is DETAIL + kind.
enum EventField : uint32_t { KIND = 1, PROCESS = 2, SEQUENCE = 3, KTIME_NS = 4, TID = 5, DETAIL = 10 };

void put_text(ProtobufWriter& out, uint32_t field, std::string_view bytes) {
  if (is_utf8(bytes)) {
    out.bytes(field, bytes);
  } else {
    out.bytes(field, to_utf8(bytes));
  }
}

template <size_t SIZE>
std::string_view fixed_text(const char (&bytes)[SIZE]) {
  return {bytes, strnlen(bytes, SIZE)};
}

void encode_credentials(ProtobufWriter& out, const tg_credentials& credentials) {
  constexpr uint32_t LOGIN_UID_UNSET = 0xffffffff;
  out.varint(1, credentials.uid);
  out.varint(2, credentials.gid);
  out.varint(3, credentials.euid);
  out.varint(4, credentials.egid);
  out.varint(5, credentials.suid);
  out.varint(6, credentials.sgid);
  out.varint(7, credentials.fsuid);
  out.varint(8, credentials.fsgid);
  if (credentials.login_uid != LOGIN_UID_UNSET) out.varint_always(9, credentials.login_uid);
  out.varint(10, credentials.securebits);
  out.varint(11, credentials.cap_permitted);
  out.varint(12, credentials.cap_effective);
  out.varint(13, credentials.cap_inheritable);
  out.varint(14, credentials.cap_bounding);
  out.varint(15, credentials.cap_ambient);
}

void encode_namespaces(ProtobufWriter& out, const tg_namespaces& namespaces) {
  out.varint(1, namespaces.uts);
  out.varint(2, namespaces.ipc);
  out.varint(3, namespaces.mnt);
  out.varint(4, namespaces.pid);
  out.varint(5, namespaces.pid_for_children);
  out.varint(6, namespaces.net);
  out.varint(7, namespaces.time);
  out.varint(8, namespaces.cgroup);
  out.varint(9, namespaces.user);
}

void encode_binary_file(ProtobufWriter& out, const tg_exec& exec) {
  constexpr uint32_t MINOR_BITS = 20;
  out.varint(1, exec.inode);
  out.varint(2, exec.device >> MINOR_BITS);
  out.varint(3, exec.device & ((1u << MINOR_BITS) - 1));
  out.varint(4, exec.links);
  out.varint(5, (exec.flags & TG_EXEC_MEMFD) != 0);
  out.varint(6, (exec.flags & TG_EXEC_DELETED) != 0);
  out.varint(7, (exec.flags & TG_EXEC_UPPER_LAYER) != 0);
  out.varint(8, (exec.flags & TG_EXEC_SETUID) != 0);
  out.varint(9, (exec.flags & TG_EXEC_SETGID) != 0);
}

void encode_exec(ProtobufWriter& out, const tg_header& record) {
  const auto& exec = reinterpret_cast<const tg_exec&>(record);
  ExecStrings strings;
  exec_strings(exec, strings);
  size_t body = out.open(1);
  encode_credentials(out, exec.credentials);
  out.close(body);
  body = out.open(2);
  encode_namespaces(out, exec.namespaces);
  out.close(body);
  body = out.open(3);
  encode_binary_file(out, exec);
  out.close(body);
  put_text(out, 4, strings.raw_path);
  put_text(out, 5, fixed_text(exec.tty));
  out.varint(6, record.cgroup_id & ~TG_CGROUP_V1);
  out.varint(7, exec.namespace_pid);
  if (exec.flags & TG_EXEC_ARGUMENTS_TRUNCATED) out.varint(8, exec.arguments_total);
  put_text(out, 9, fixed_text(exec.comm));
  out.varint(10, (exec.flags & TG_EXEC_CWD_TRUNCATED) != 0);
  out.varint(11, (exec.flags & TG_EXEC_BINARY_TRUNCATED) != 0);
}

void encode_exit(ProtobufWriter& out, const tg_header& record) {
  const auto& exit = reinterpret_cast<const tg_exit&>(record);
  out.varint(1, exit.status >> 8 & 0xff);
  out.varint(2, exit.status & 0x7f);
  out.varint(3, (exit.status & 0x80) != 0);
  out.varint(4, record.ktime_ns - record.process.start_ktime_ns);
  out.varint(5, exit.user_ns);
  out.varint(6, exit.system_ns);
}

void put_address(ProtobufWriter& out, uint32_t field, uint16_t family, const uint8_t (&address)[16]) {
  char text[INET6_ADDRSTRLEN];
  if (family == AF_INET) {
    char* end = text;
    for (size_t index = 0; index < 4; index++) {
      if (index != 0) *end++ = '.';
      end = std::to_chars(end, text + sizeof(text), address[index]).ptr;
    }
    out.bytes(field, {text, static_cast<size_t>(end - text)});
  } else if (inet_ntop(AF_INET6, address, text, sizeof(text)) != nullptr) {
    out.bytes(field, text);
  }
}

// Connect, Accept, Listen and Close: a field that several of them have bears the same number in each.
void encode_socket(ProtobufWriter& out, const tg_header& record) {
  const auto& socket = reinterpret_cast<const tg_socket&>(record);
  put_address(out, 1, socket.family, socket.source_address);
  out.varint(2, socket.source_port);
  if (record.type != TG_RECORD_LISTEN) {
    put_address(out, 3, socket.family, socket.destination_address);
    out.varint(4, socket.destination_port);
  }
  out.varint(5, socket.cookie);
  if (record.type == TG_RECORD_CONNECT) out.varint(6, socket.error);
  if (record.type == TG_RECORD_CLOSE) {
    out.varint(7, socket.bytes_sent);
    out.varint(8, socket.bytes_received);
    if (socket.established_ktime_ns != 0) out.varint(9, record.ktime_ns - socket.established_ktime_ns);
  }
  if (record.type == TG_RECORD_LISTEN) out.varint(10, socket.backlog);
  out.varint(11, socket.network_namespace);
}

struct Encoder {
  void (*detail)(ProtobufWriter& out, const tg_header& record) = nullptr;
  size_t record_size = 0;
};

// One line per kind the kernel sends.
constexpr std::array<Encoder, TG_KIND_MAX> ENCODERS = [] {
  std::array<Encoder, TG_KIND_MAX> encoders{};
  encoders[TG_RECORD_EXEC] = {encode_exec, sizeof(tg_exec)};
  encoders[TG_RECORD_EXIT] = {encode_exit, sizeof(tg_exit)};
  encoders[TG_RECORD_CONNECT] = {encode_socket, sizeof(tg_socket)};
  encoders[TG_RECORD_ACCEPT] = {encode_socket, sizeof(tg_socket)};
  encoders[TG_RECORD_LISTEN] = {encode_socket, sizeof(tg_socket)};
  encoders[TG_RECORD_CLOSE] = {encode_socket, sizeof(tg_socket)};
  return encoders;
}();

}  // namespace

bool is_event(const tg_header& record) {
  return record.type < TG_KIND_MAX && ENCODERS[record.type].detail != nullptr && record.size >= ENCODERS[record.type].record_size;
}

void encode_event(ProtobufWriter& out, const tg_header& record, uint32_t process_id, uint64_t sequence) {
  out.varint(EventField::KIND, record.type);
  out.varint(EventField::PROCESS, process_id);
  out.varint(EventField::SEQUENCE, sequence);
  out.varint(EventField::KTIME_NS, record.ktime_ns);
  out.varint(EventField::TID, record.tid);
  const size_t body = out.open(EventField::DETAIL + record.type);
  ENCODERS[record.type].detail(out, record);
  out.close(body);
}

void encode_loss(ProtobufWriter& out, const Loss& loss, uint64_t sequence) {
  out.varint(EventField::KIND, KIND_LOSS);
  out.varint(EventField::SEQUENCE, sequence);
  out.varint(EventField::KTIME_NS, loss.to_ktime_ns);
  const size_t body = out.open(EventField::DETAIL + KIND_LOSS);
  out.varint(1, loss.reason);
  out.varint(2, loss.count);
  out.varint(3, loss.first_sequence);
  out.varint(4, loss.last_sequence);
  out.varint(5, loss.from_ktime_ns);
  out.varint(6, loss.to_ktime_ns);
  for (uint32_t kind = 0; kind < TG_KIND_MAX; kind++) {
    if (loss.by_kind[kind] == 0) continue;
    const size_t entry = out.open(7);
    out.varint(1, kind);
    out.varint(2, loss.by_kind[kind]);
    out.close(entry);
  }
  out.close(body);
}

void encode_image(ProtobufWriter& out, const ImageSource& source, size_t arguments_max) {
  put_text(out, 7, source.binary);
  const bool truncated = source.arguments_truncated || source.arguments.size() > arguments_max;
  std::string_view arguments = source.arguments.substr(0, arguments_max);
  if (truncated) {
    // The NUL the kernel's side puts behind a cut string would hide that its last character is not whole.
    if (arguments.ends_with('\0')) arguments.remove_suffix(1);
    arguments = whole_characters(arguments);
  }
  bool changed = false;
  for (std::string_view rest = arguments; !rest.empty();) {
    const size_t end = rest.find('\0');
    const std::string_view argument = rest.substr(0, end);
    if (is_utf8(argument)) {
      out.bytes_always(8, argument);
    } else {
      out.bytes_always(8, to_utf8(argument));
      changed = true;
    }
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  }
  out.varint(9, truncated);
  if (changed) out.bytes(10, arguments);
  put_text(out, 11, source.cwd);
  out.varint(14, source.kernel_thread);
}

std::string exec_id(std::string_view node, const ProcessKey& key) {
  static constexpr char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string plain(node);
  plain.append(":").append(std::to_string(key.start_ktime_ns + key.exec_generation)).append(":").append(std::to_string(key.pid));
  std::string text;
  text.reserve((plain.size() + 2) / 3 * 4);
  for (size_t index = 0; index < plain.size(); index += 3) {
    const size_t left = plain.size() - index;
    uint32_t group = static_cast<uint8_t>(plain[index]) << 16;
    if (left > 1) group |= static_cast<uint8_t>(plain[index + 1]) << 8;
    if (left > 2) group |= static_cast<uint8_t>(plain[index + 2]);
    text += ALPHABET[group >> 18];
    text += ALPHABET[group >> 12 & 63];
    text += left > 1 ? ALPHABET[group >> 6 & 63] : '=';
    text += left > 2 ? ALPHABET[group & 63] : '=';
  }
  return text;
}

}  // namespace tidegate
