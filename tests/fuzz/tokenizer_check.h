// What every tokenizer that loads must do, whatever file it came from: used by the tokenizer
// targets.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include "fuzz/fuzz_target.h"
#include "text/tokenizer.h"

namespace lema::fuzz {

inline void check_tokenizer(const Tokenizer& tokenizer, std::string_view text) {
  const Tokenizer::Encoding encoding = tokenizer.encode(text, true);
  expect(encoding.ids.size() == encoding.begins.size(), "ids without places");
  expect(std::is_sorted(encoding.begins.begin(), encoding.begins.end()), "places that go back");
  for (size_t i = 0; i < encoding.ids.size(); ++i) {
    expect(encoding.ids[i] >= 0 && encoding.ids[i] < tokenizer.vocab_size(),
           "an id without a token");
    expect(encoding.begins[i] >= 0 && encoding.begins[i] <= std::ssize(text), "a place outside");
  }
  expect(tokenizer.encode(text, true).ids == encoding.ids, "two different encodings");
  for (const bool skips : {false, true}) {
    const std::string whole = tokenizer.decode(encoding.ids, skips);
    StreamDecoder stream(tokenizer, skips);
    std::string streamed;
    for (const int32_t id : encoding.ids) streamed += stream.push(id);
    streamed += stream.finish();
    expect(streamed == whole, "a stream that decodes otherwise");
  }
  for (const int32_t id : {-1, 0, static_cast<int32_t>(tokenizer.vocab_size())}) {
    tokenizer.token(id);
    tokenizer.is_special(id);
    tokenizer.decode(std::span(&id, 1), false);
  }
}

inline constexpr std::string_view kSampleText =
    "Hello  w\xc3\xb6rld <s>\n\t12345 \xf0\x9f\x98\x80 don't </s>\xff\xe2\x96\x81 a";

}  // namespace lema::fuzz
