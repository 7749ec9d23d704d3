// SPDX-License-Identifier: Apache-2.0
// Numbers of the schema: namespace schema has its enums, namespace field the field numbers of its messages.
#pragma once

#include <type_traits>

#include "../../packages/contracts/generated/numbers.h"

namespace tidegate {

// A value of one of the schema's enums as it is written.
template <typename Enum>
  requires std::is_enum_v<Enum>
constexpr uint32_t number(Enum value) {
  return static_cast<uint32_t>(value);
}

}  // namespace tidegate
