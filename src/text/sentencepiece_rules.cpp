// Loading the rules, and what stands at one place of a text under them.
#include "text/sentencepiece_rules.h"

#include "text/tokenizer_fields.h"
#include "text/unicode.h"

namespace lema {

SentencePieceRules::SentencePieceRules(const Value& json, const std::string& place) {
  if (const Value* map = json.find("charsmap"); map != nullptr && !map->is_null())
    map_.emplace(fields::text(json, "charsmap", place), place + ".charsmap");
  const std::string& prefix = fields::text(json, "dummy_prefix", place);
  if (prefix != "always" && prefix != "first" && prefix != "never")
    fail(ErrorCode::BadInput, "{}: dummy_prefix \"{}\", expected always, first or never", place,
         escaped(prefix));
  prefix_ = prefix == "always" ? Prefix::Always : prefix == "first" ? Prefix::First : Prefix::Never;
  removes_extra_spaces_ = fields::flag(json, "remove_extra_whitespaces", true, place);
  escapes_spaces_ = fields::flag(json, "escape_whitespaces", true, place);
  for (const Value& text : fields::array(json, "user_defined", place))
    user_defined_.add(text.as_string(), {.content = text.as_string()});
}

SentencePieceRules::Unit SentencePieceRules::at(std::string_view text, size_t at) const {
  size_t bytes = 0;
  if (!user_defined_.empty() && user_defined_.longest_at(text, at, bytes) != nullptr)
    return {bytes, text.substr(at, bytes), true};
  if (map_)
    if (const CharsMap::Match match = map_->longest_at(text, at); match.bytes > 0)
      return {match.bytes, match.replacement, false};
  bytes = character_at(text, at).bytes;
  return {bytes, text.substr(at, bytes), true};
}

}  // namespace lema
