// SPDX-License-Identifier: Apache-2.0
// Bytes from processes made into the valid UTF-8 that protobuf strings must be.
#pragma once

#include <string>
#include <string_view>

namespace tidegate {

bool is_utf8(std::string_view bytes);

// Each byte that is not part of a valid sequence (RFC 3629: no overlong forms, no surrogates) becomes U+FFFD.
std::string to_utf8(std::string_view bytes);

// Bytes that were cut off somewhere, without the sequence the cut may have left unfinished at their end.
std::string_view whole_characters(std::string_view bytes);

}  // namespace tidegate
