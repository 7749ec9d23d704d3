// SPDX-License-Identifier: Apache-2.0
#include "event_encoder.h"

#include <arpa/inet.h>

#include <charconv>

#include "utf8_text.h"

namespace tidegate {
namespace {

using schema::Kind;

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
  out.varint(field::Credentials::UID, credentials.uid);
  out.varint(field::Credentials::GID, credentials.gid);
  out.varint(field::Credentials::EUID, credentials.euid);
  out.varint(field::Credentials::EGID, credentials.egid);
  out.varint(field::Credentials::SUID, credentials.suid);
  out.varint(field::Credentials::SGID, credentials.sgid);
  out.varint(field::Credentials::FSUID, credentials.fsuid);
  out.varint(field::Credentials::FSGID, credentials.fsgid);
  if (credentials.login_uid != LOGIN_UID_UNSET) out.varint_always(field::Credentials::LOGIN_UID, credentials.login_uid);
  out.varint(field::Credentials::SECUREBITS, credentials.securebits);
  out.varint(field::Credentials::CAP_PERMITTED, credentials.cap_permitted);
  out.varint(field::Credentials::CAP_EFFECTIVE, credentials.cap_effective);
  out.varint(field::Credentials::CAP_INHERITABLE, credentials.cap_inheritable);
  out.varint(field::Credentials::CAP_BOUNDING, credentials.cap_bounding);
  out.varint(field::Credentials::CAP_AMBIENT, credentials.cap_ambient);
}

void encode_namespaces(ProtobufWriter& out, const tg_namespaces& namespaces) {
  out.varint(field::Namespaces::UTS, namespaces.uts);
  out.varint(field::Namespaces::IPC, namespaces.ipc);
  out.varint(field::Namespaces::MNT, namespaces.mnt);
  out.varint(field::Namespaces::PID, namespaces.pid);
  out.varint(field::Namespaces::PID_FOR_CHILDREN, namespaces.pid_for_children);
  out.varint(field::Namespaces::NET, namespaces.net);
  out.varint(field::Namespaces::TIME, namespaces.time);
  out.varint(field::Namespaces::CGROUP, namespaces.cgroup);
  out.varint(field::Namespaces::USER, namespaces.user);
}

void encode_binary_file(ProtobufWriter& out, const tg_exec& exec) {
  constexpr uint32_t MINOR_BITS = 20;
  out.varint(field::BinaryFile::INODE, exec.inode);
  out.varint(field::BinaryFile::DEVICE_MAJOR, exec.device >> MINOR_BITS);
  out.varint(field::BinaryFile::DEVICE_MINOR, exec.device & ((1u << MINOR_BITS) - 1));
  out.varint(field::BinaryFile::LINKS, exec.links);
  out.varint(field::BinaryFile::MEMFD, (exec.flags & TG_EXEC_MEMFD) != 0);
  out.varint(field::BinaryFile::DELETED, (exec.flags & TG_EXEC_DELETED) != 0);
  out.varint(field::BinaryFile::UPPER_LAYER, (exec.flags & TG_EXEC_UPPER_LAYER) != 0);
  out.varint(field::BinaryFile::SETUID, (exec.flags & TG_EXEC_SETUID) != 0);
  out.varint(field::BinaryFile::SETGID, (exec.flags & TG_EXEC_SETGID) != 0);
}

void encode_exec(ProtobufWriter& out, const tg_header& record) {
  const auto& exec = reinterpret_cast<const tg_exec&>(record);
  ExecStrings strings;
  exec_strings(exec, strings);
  size_t body = out.open(field::Exec::CREDENTIALS);
  encode_credentials(out, exec.credentials);
  out.close(body);
  body = out.open(field::Exec::NAMESPACES);
  encode_namespaces(out, exec.namespaces);
  out.close(body);
  body = out.open(field::Exec::FILE);
  encode_binary_file(out, exec);
  out.close(body);
  put_text(out, field::Exec::RAW_PATH, strings.raw_path);
  put_text(out, field::Exec::TTY, fixed_text(exec.tty));
  out.varint(field::Exec::CGROUP_ID, record.cgroup_id & ~TG_CGROUP_V1);
  out.varint(field::Exec::NAMESPACE_PID, exec.namespace_pid);
  if (exec.flags & TG_EXEC_ARGUMENTS_TRUNCATED) out.varint(field::Exec::ARGUMENTS_BYTES, exec.arguments_total);
  put_text(out, field::Exec::COMM, fixed_text(exec.comm));
  out.varint(field::Exec::CWD_TRUNCATED, (exec.flags & TG_EXEC_CWD_TRUNCATED) != 0);
  out.varint(field::Exec::BINARY_TRUNCATED, (exec.flags & TG_EXEC_BINARY_TRUNCATED) != 0);
}

void encode_exit(ProtobufWriter& out, const tg_header& record) {
  const auto& exit = reinterpret_cast<const tg_exit&>(record);
  out.varint(field::Exit::CODE, exit.status >> 8 & 0xff);
  out.varint(field::Exit::SIGNAL, exit.status & 0x7f);
  out.varint(field::Exit::CORE_DUMPED, (exit.status & 0x80) != 0);
  out.varint(field::Exit::DURATION_NS, record.ktime_ns - record.process.start_ktime_ns);
  out.varint(field::Exit::USER_NS, exit.user_ns);
  out.varint(field::Exit::SYSTEM_NS, exit.system_ns);
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

// Connect, Accept, Listen and Close: each has those of these fields that mean something for it.
template <typename Field>
void encode_socket(ProtobufWriter& out, const tg_header& record) {
  const auto& socket = reinterpret_cast<const tg_socket&>(record);
  put_address(out, Field::SOURCE_IP, socket.family, socket.source_address);
  out.varint(Field::SOURCE_PORT, socket.source_port);
  if constexpr (requires { Field::DESTINATION_IP; }) {
    put_address(out, Field::DESTINATION_IP, socket.family, socket.destination_address);
    out.varint(Field::DESTINATION_PORT, socket.destination_port);
  }
  out.varint(Field::SOCKET, socket.cookie);
  if constexpr (requires { Field::ERROR; }) out.varint(Field::ERROR, socket.error);
  if constexpr (requires { Field::BYTES_SENT; }) {
    out.varint(Field::BYTES_SENT, socket.bytes_sent);
    out.varint(Field::BYTES_RECEIVED, socket.bytes_received);
    if (socket.established_ktime_ns != 0) out.varint(Field::DURATION_NS, record.ktime_ns - socket.established_ktime_ns);
  }
  if constexpr (requires { Field::BACKLOG; }) out.varint(Field::BACKLOG, socket.backlog);
  out.varint(Field::NETWORK_NAMESPACE, socket.network_namespace);
}

struct Arguments {
  std::string_view text;  // strings each ended by NUL
  bool truncated;
};

Arguments cut_arguments(const ImageSource& source, size_t max) {
  const bool truncated = source.arguments_truncated || source.arguments.size() > max;
  std::string_view text = source.arguments.substr(0, max);
  if (truncated) {
    // The NUL the kernel's side puts behind a cut string would hide that its last character is not whole.
    if (text.ends_with('\0')) text.remove_suffix(1);
    text = whole_characters(text);
  }
  return {text, truncated};
}

// True: some had to be changed to be UTF-8.
bool put_arguments(ProtobufWriter& out, uint32_t field, std::string_view arguments) {
  bool changed = false;
  for (std::string_view rest = arguments; !rest.empty();) {
    const size_t end = rest.find('\0');
    const std::string_view argument = rest.substr(0, end);
    if (is_utf8(argument)) {
      out.bytes_always(field, argument);
    } else {
      out.bytes_always(field, to_utf8(argument));
      changed = true;
    }
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  }
  return changed;
}

struct Encoder {
  Kind kind = Kind::UNSPECIFIED;
  void (*detail)(ProtobufWriter& out, const tg_header& record) = nullptr;
  size_t record_size = 0;
};

// One line per kind the kernel sends.
constexpr std::array<Encoder, TG_KIND_MAX> ENCODERS = [] {
  std::array<Encoder, TG_KIND_MAX> encoders{};
  encoders[TG_RECORD_EXEC] = {Kind::EXEC, encode_exec, sizeof(tg_exec)};
  encoders[TG_RECORD_EXIT] = {Kind::EXIT, encode_exit, sizeof(tg_exit)};
  encoders[TG_RECORD_CONNECT] = {Kind::CONNECT, encode_socket<field::Connect>, sizeof(tg_socket)};
  encoders[TG_RECORD_ACCEPT] = {Kind::ACCEPT, encode_socket<field::Accept>, sizeof(tg_socket)};
  encoders[TG_RECORD_LISTEN] = {Kind::LISTEN, encode_socket<field::Listen>, sizeof(tg_socket)};
  encoders[TG_RECORD_CLOSE] = {Kind::CLOSE, encode_socket<field::Close>, sizeof(tg_socket)};
  return encoders;
}();

// A record's type is written as the event's kind.
static_assert([] {
  for (uint32_t type = 0; type < TG_KIND_MAX; type++) {
    // By the kind, not the function: with address sanitizer, whether a function is null is no constant.
    if (ENCODERS[type].kind != Kind::UNSPECIFIED && number(ENCODERS[type].kind) != type) return false;
  }
  return true;
}());

}  // namespace

bool is_event(const tg_header& record) {
  return record.type < TG_KIND_MAX && ENCODERS[record.type].detail != nullptr && record.size >= ENCODERS[record.type].record_size;
}

void encode_event(ProtobufWriter& out, const tg_header& record, uint32_t process_id, uint64_t sequence) {
  out.varint(field::Event::KIND, record.type);
  out.varint(field::Event::PROCESS, process_id);
  out.varint(field::Event::SEQUENCE, sequence);
  out.varint(field::Event::KTIME_NS, record.ktime_ns);
  out.varint(field::Event::TID, record.tid);
  const size_t body = out.open(field::DETAIL_BASE + record.type);
  ENCODERS[record.type].detail(out, record);
  out.close(body);
}

void encode_loss(ProtobufWriter& out, const Loss& loss, uint64_t sequence) {
  out.varint(field::Event::KIND, number(Kind::LOSS));
  out.varint(field::Event::SEQUENCE, sequence);
  out.varint(field::Event::KTIME_NS, loss.to_ktime_ns);
  const size_t body = out.open(field::DETAIL_BASE + number(Kind::LOSS));
  out.varint(field::Loss::REASON, number(loss.reason));
  out.varint(field::Loss::COUNT, loss.count);
  out.varint(field::Loss::FIRST_SEQUENCE, loss.first_sequence);
  out.varint(field::Loss::LAST_SEQUENCE, loss.last_sequence);
  out.varint(field::Loss::FROM_KTIME_NS, loss.from_ktime_ns);
  out.varint(field::Loss::TO_KTIME_NS, loss.to_ktime_ns);
  for (uint32_t kind = 0; kind < TG_KIND_MAX; kind++) {
    if (loss.by_kind[kind] == 0) continue;
    const size_t entry = out.open(field::Loss::BY_KIND);
    out.varint(MAP_KEY, kind);
    out.varint(MAP_VALUE, loss.by_kind[kind]);
    out.close(entry);
  }
  out.close(body);
}

void encode_image(ProtobufWriter& out, const ImageSource& source, size_t arguments_max) {
  put_text(out, field::Process::BINARY, source.binary);
  const Arguments arguments = cut_arguments(source, arguments_max);
  const bool changed = put_arguments(out, field::Process::ARGUMENTS, arguments.text);
  out.varint(field::Process::ARGUMENTS_TRUNCATED, arguments.truncated);
  if (changed) out.bytes(field::Process::RAW_ARGUMENTS, arguments.text);
  put_text(out, field::Process::CWD, source.cwd);
  out.varint(field::Process::KERNEL_THREAD, source.kernel_thread);
}

void encode_entry(ProtobufWriter& out, const ImageSource& source, std::string_view raw_path, bool has_terminal) {
  ImageSource given = source;
  // The kernel starts a script's interpreter with: its name, at most one argument for it, the script, and what the caller gave after argv[0].
  std::string_view rest = source.arguments;
  for (size_t index = 0; index <= 2 && !raw_path.empty() && !rest.empty(); index++) {
    const size_t end = rest.find('\0');
    if (index > 0 && rest.substr(0, end) == raw_path) {
      given.arguments = rest;
      break;
    }
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  }
  const Arguments arguments = cut_arguments(given, BRIEF_ARGUMENTS_MAX);
  put_arguments(out, field::Process::ENTRY_ARGUMENTS, arguments.text);
  out.varint(field::Process::ENTRY_ARGUMENTS_TRUNCATED, arguments.truncated);
  out.varint(field::Process::ENTRY_TERMINAL, has_terminal);
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
