// SPDX-License-Identifier: Apache-2.0
// Writes protobuf wire format, forward, into one growing buffer. As in proto3, fields with their default value are left out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>

namespace tidegate {

// Fields of an entry of a map, which is a message.
constexpr uint32_t MAP_KEY = 1, MAP_VALUE = 2;

class ProtobufWriter {
 public:
  size_t size() const { return size_; }
  std::string_view view() const { return {reinterpret_cast<const char*>(bytes_.get()), size_}; }
  void clear() { size_ = 0; }
  // Takes back everything written since the writer had this size.
  void truncate(size_t size) { size_ = size; }

  void varint(uint32_t field, uint64_t value) {
    if (value != 0) varint_always(field, value);
  }

  void varint_always(uint32_t field, uint64_t value) {
    put_varint(field << 3);
    put_varint(value);
  }

  void bytes(uint32_t field, std::string_view value) {
    if (!value.empty()) bytes_always(field, value);
  }

  // For repeated fields, where an empty element counts.
  void bytes_always(uint32_t field, std::string_view value) {
    put_varint(field << 3 | LENGTH_DELIMITED);
    put_varint(value.size());
    raw(value);
  }

  // Fields that are encoded already.
  void raw(std::string_view encoded) {
    claim(encoded.size());
    if (!encoded.empty()) memcpy(bytes_.get() + size_, encoded.data(), encoded.size());
    size_ += encoded.size();
  }

  // Opens a nested message; close() takes what open() returned.
  size_t open(uint32_t field) {
    put_varint(field << 3 | LENGTH_DELIMITED);
    claim(1);
    return ++size_;
  }

  // One byte was set aside for the length: most messages are shorter than 128 bytes, the others move.
  void close(size_t body) {
    const size_t length = size_ - body;
    size_t extra = 0;
    for (size_t rest = length >> 7; rest != 0; rest >>= 7) extra++;
    if (extra != 0) {
      claim(extra);
      memmove(bytes_.get() + body + extra, bytes_.get() + body, length);
    }
    size_ = body - 1;
    put_varint(length);
    size_ += length;
  }

 private:
  static constexpr uint32_t LENGTH_DELIMITED = 2;
  static constexpr size_t VARINT_MAX = 10;

  void put_varint(uint64_t value) {
    claim(VARINT_MAX);
    uint8_t* out = bytes_.get() + size_;
    while (value >= 0x80) {
      *out++ = static_cast<uint8_t>(value) | 0x80;
      value >>= 7;
    }
    *out++ = static_cast<uint8_t>(value);
    size_ = out - bytes_.get();
  }

  void claim(size_t count) {
    if (capacity_ - size_ < count) grow(count);
  }

  void grow(size_t count) {
    const size_t wanted = size_ + count > 2 * capacity_ ? size_ + count : 2 * capacity_;
    std::unique_ptr<uint8_t[]> larger(new uint8_t[wanted]);
    if (size_ != 0) memcpy(larger.get(), bytes_.get(), size_);
    bytes_ = std::move(larger);
    capacity_ = wanted;
  }

  std::unique_ptr<uint8_t[]> bytes_;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

}  // namespace tidegate
