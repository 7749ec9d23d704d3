// SPDX-License-Identifier: Apache-2.0
#include "json_values.h"

#include <algorithm>
#include <charconv>
#include <cstdint>

namespace tidegate {
namespace {

using Visit = std::function<void(const JsonPath&, const std::string&)>;

void append_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | code >> 6);
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | code >> 12);
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | code >> 18);
    out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

class Walker {
 public:
  Walker(std::string_view text, const Visit& visit) : rest_(text), visit_(visit) {}

  bool document() {
    if (!value()) return false;
    skip_space();
    return rest_.empty();
  }

 private:
  void skip_space() { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t\r\n"), rest_.size())); }

  // Takes `character`, if it is what comes next.
  bool take(char character) {
    skip_space();
    if (!rest_.starts_with(character)) return false;
    rest_.remove_prefix(1);
    return true;
  }

  bool value() {
    if (take('{')) return members('}', [this] { return key(); });
    if (take('[')) return members(']', [this] {
      path_.emplace_back();
      return true;
    });
    if (rest_.starts_with('"')) {
      std::string text;
      if (!string(text)) return false;
      visit_(path_, text);
      return true;
    }
    return scalar();
  }

  // Of an object or array: `name` puts the next one's key on the path.
  template <typename Name>
  bool members(char end, const Name& name) {
    if (path_.size() >= JSON_DEPTH_MAX) return false;
    if (take(end)) return true;
    do {
      if (!name() || !value()) return false;
      path_.pop_back();
    } while (take(','));
    return take(end);
  }

  bool key() {
    skip_space();
    std::string text;
    if (!string(text)) return false;
    path_.push_back(std::move(text));
    return take(':');
  }

  bool scalar() {
    for (const std::string_view word : {"true", "false", "null"}) {
      if (!rest_.starts_with(word)) continue;
      rest_.remove_prefix(word.size());
      return true;
    }
    const size_t size = std::min(rest_.find_first_not_of("+-.0123456789Ee"), rest_.size());
    if (size == 0) return false;
    visit_(path_, std::string(rest_.substr(0, size)));
    rest_.remove_prefix(size);
    return true;
  }

  bool string(std::string& out) {
    if (!take('"')) return false;
    while (true) {
      const size_t plain = rest_.find_first_of("\"\\");
      if (plain == std::string_view::npos) return false;
      out.append(rest_.substr(0, plain));
      const char special = rest_[plain];
      rest_.remove_prefix(plain + 1);
      if (special == '"') return true;
      if (!escape(out)) return false;
    }
  }

  bool escape(std::string& out) {
    if (rest_.empty()) return false;
    const char letter = rest_.front();
    rest_.remove_prefix(1);
    if (letter == 'u') return unicode(out);
    constexpr std::string_view LETTERS = "\"\\/bfnrt", MEANINGS = "\"\\/\b\f\n\r\t";
    const size_t index = LETTERS.find(letter);
    if (index == std::string_view::npos) return false;
    out += MEANINGS[index];
    return true;
  }

  // A half of a surrogate pair without the other becomes U+FFFD.
  bool unicode(std::string& out) {
    uint32_t code;
    if (!hex4(code)) return false;
    if (code >= 0xD800 && code < 0xDC00 && rest_.starts_with("\\u")) {
      const std::string_view before = rest_;
      uint32_t low;
      rest_.remove_prefix(2);
      if (!hex4(low)) return false;
      if (low >= 0xDC00 && low < 0xE000) {
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      } else {
        rest_ = before;
      }
    }
    append_utf8(out, code >= 0xD800 && code < 0xE000 ? 0xFFFD : code);
    return true;
  }

  bool hex4(uint32_t& code) {
    constexpr size_t DIGITS = 4;
    if (rest_.size() < DIGITS) return false;
    const char* const end = rest_.data() + DIGITS;
    if (std::from_chars(rest_.data(), end, code, 16).ptr != end) return false;
    rest_.remove_prefix(DIGITS);
    return true;
  }

  std::string_view rest_;
  const Visit& visit_;
  JsonPath path_;
};

}  // namespace

bool visit_json_values(std::string_view text, const Visit& visit) { return Walker(text, visit).document(); }

}  // namespace tidegate
