// SPDX-License-Identifier: Apache-2.0
// Just enough JSON (RFC 8259) to pick strings and numbers out of the files container runtimes write.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace tidegate {

// Keys from the root; an array's elements have the empty key.
using JsonPath = std::vector<std::string>;

constexpr size_t JSON_DEPTH_MAX = 64;

// Calls `visit` for every string and number, as it is written, in the order they stand in the text. False: the text is not JSON, or nested deeper
// than JSON_DEPTH_MAX; what stood before the fault was visited. Numbers are not checked beyond their characters.
bool visit_json_values(std::string_view text, const std::function<void(const JsonPath& path, const std::string& value)>& visit);

}  // namespace tidegate
