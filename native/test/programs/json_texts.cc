// SPDX-License-Identifier: Apache-2.0
// Random texts, most of them nearly JSON, through the reader of JSON values, with a fixed seed; for tests.
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "../../src/json_values.h"

using namespace tidegate;

int main() {
  const std::string good =
      R"({"annotations":{"io.kubernetes.cri.container-name":"w\u00e9b","a":"\ud83c\udf0a\n"},"list":[1,-2.5e3,true,null,"x",[],{}],"":{"":""}})";
  const std::string alphabet = "{}[]\",:\\u0dD8cC tfn-1e\xff";
  size_t values = 0;
  const auto count = [&](const JsonPath&, const std::string&) { values++; };
  if (!visit_json_values(good, count) || values != 6) {
    fprintf(stderr, "the good text was not understood\n");
    return 1;
  }
  std::mt19937 random(20'250'102);
  size_t whole = 0;
  for (int round = 0; round < 100'000; round++) {
    std::string text = good;
    for (size_t change = random() % 4; change-- > 0;) {
      const size_t at = random() % (text.size() + 1);
      const char letter = alphabet[random() % alphabet.size()];
      switch (random() % 4) {
        case 0: text.resize(at); break;
        case 1: text.insert(at, 1, letter); break;
        case 2: text.erase(at, random() % 8); break;
        default: if (at < text.size()) text[at] = letter;
      }
    }
    // A copy of just that length: the sanitizer sees a read behind it.
    const std::vector<char> exact(text.begin(), text.end());
    whole += visit_json_values({exact.data(), exact.size()}, count);
  }
  return whole > 0 && whole < 100'000 ? 0 : 1;
}
