// SPDX-License-Identifier: Apache-2.0
#include "libbpf_log.h"

#include <bpf/libbpf.h>

#include <cstdarg>
#include <cstdio>
#include <string_view>
#include <vector>

namespace tidegate {
namespace {

thread_local LibbpfLog* current = nullptr;

int print(libbpf_print_level level, const char* format, va_list arguments) {
  if (level == LIBBPF_DEBUG || current == nullptr) return 0;
  va_list again;
  va_copy(again, arguments);
  const int length = vsnprintf(nullptr, 0, format, again);
  va_end(again);
  if (length <= 0) return 0;
  std::vector<char> line(static_cast<size_t>(length) + 1);
  vsnprintf(line.data(), line.size(), format, arguments);
  current->add(line.data());
  return length;
}

}  // namespace

LibbpfLog::LibbpfLog() : outer_(current) {
  current = this;
  libbpf_set_print(print);
}

LibbpfLog::~LibbpfLog() { current = outer_; }

void LibbpfLog::add(const char* line) {
  // "libbpf: prog '<name>': BPF program load failed: ..."
  constexpr std::string_view before = "prog '";
  constexpr std::string_view after = "': BPF program load failed";
  const std::string_view text(line);
  const size_t end = text.find(after);
  const size_t start = text.find(before);
  if (end != std::string_view::npos && start != std::string_view::npos && start < end) {
    failed_program_ = text.substr(start + before.size(), end - start - before.size());
  }
  text_ += text;
  // The verifier's log can be megabytes.
  if (text_.size() > 2 * MAX_BYTES) text_.erase(0, text_.size() - MAX_BYTES);
}

std::string LibbpfLog::text() const {
  std::string tail = text_.size() > MAX_BYTES ? text_.substr(text_.size() - MAX_BYTES) : text_;
  while (!tail.empty() && tail.back() == '\n') tail.pop_back();
  return tail;
}

}  // namespace tidegate
