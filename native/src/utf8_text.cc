// SPDX-License-Identifier: Apache-2.0
#include "utf8_text.h"

#include <cstdint>
#include <cstring>

namespace tidegate {
namespace {

constexpr std::string_view REPLACEMENT = "\xEF\xBF\xBD";

// Length of the valid sequence at the front of `bytes`; 0: none.
size_t sequence_length(std::string_view bytes) {
  const auto at = [&](size_t index) { return static_cast<uint8_t>(bytes[index]); };
  const uint8_t lead = at(0);
  if (lead < 0x80) return 1;
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
  size_t length;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return 0;
  }
  if (bytes.size() < length || at(1) < low || at(1) > high) return 0;
  for (size_t index = 2; index < length; index++) {
    if ((at(index) & 0xC0) != 0x80) return 0;
  }
  return length;
}

size_t ascii_prefix(std::string_view bytes) {
  size_t count = 0;
  for (uint64_t word; count + sizeof(word) <= bytes.size(); count += sizeof(word)) {
    memcpy(&word, bytes.data() + count, sizeof(word));
    if (word & 0x8080808080808080) break;
  }
  while (count < bytes.size() && static_cast<uint8_t>(bytes[count]) < 0x80) count++;
  return count;
}

}  // namespace

bool is_utf8(std::string_view bytes) {
  bytes.remove_prefix(ascii_prefix(bytes));
  while (!bytes.empty()) {
    const size_t length = sequence_length(bytes);
    if (length == 0) return false;
    bytes.remove_prefix(length);
  }
  return true;
}

std::string to_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() + 2 * REPLACEMENT.size());
  while (!bytes.empty()) {
    const size_t length = sequence_length(bytes);
    if (length == 0) {
      text += REPLACEMENT;
      bytes.remove_prefix(1);
    } else {
      text.append(bytes.substr(0, length));
      bytes.remove_prefix(length);
    }
  }
  return text;
}

std::string_view whole_characters(std::string_view bytes) {
  // A sequence has at most 3 bytes after its lead.
  for (size_t back = 1; back <= 3 && back <= bytes.size(); back++) {
    const auto byte = static_cast<uint8_t>(bytes[bytes.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;
    const size_t expected = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
    return expected > back ? bytes.substr(0, bytes.size() - back) : bytes;
  }
  return bytes;
}

}  // namespace tidegate
