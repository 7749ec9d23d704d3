// SPDX-License-Identifier: Apache-2.0
// Catches what libbpf prints while an instance lives, on this thread. libbpf has one print function per process: ours is always the same one
// and hands the text to the thread's own log, so readers in several threads do not disturb each other.
#pragma once

#include <string>

namespace tidegate {

class LibbpfLog {
 public:
  static constexpr size_t MAX_BYTES = 4096;  // of its end, where the reason stands

  LibbpfLog();
  ~LibbpfLog();
  LibbpfLog(const LibbpfLog&) = delete;
  LibbpfLog& operator=(const LibbpfLog&) = delete;

  // The last MAX_BYTES of it.
  std::string text() const;
  // Name of the program that could not be loaded; empty: another fault.
  const std::string& failed_program() const { return failed_program_; }
  void add(const char* line);

 private:
  std::string text_;
  std::string failed_program_;
  LibbpfLog* outer_;
};

}  // namespace tidegate
