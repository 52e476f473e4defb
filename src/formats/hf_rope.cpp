// The RoPE dictionaries of transformers: rope_scaling and rope_theta of v4, rope_parameters of v5,
// kind by kind. Called by parse_model_config. Ref: transformers modeling_rope_utils.
#include "formats/hf_rope.h"

#include <algorithm>
#include <cmath>

namespace lema {
namespace {

using Kind = RopeConfig::Kind;

constexpr double kMaxNumber = 1e15, kLeast = 1e-6;
constexpr const char* kOriginal = "original_max_position_embeddings";

struct KindName {
  std::string_view name;
  Kind kind;
};
constexpr KindName kKinds[] = {{"default", Kind::Default}, {"linear", Kind::Linear},
                               {"dynamic", Kind::Dynamic}, {"yarn", Kind::Yarn},
                               {"llama3", Kind::Llama3},   {"longrope", Kind::LongRope}};
constexpr KindName kPhi3Kinds[] = {{"default", Kind::Default},
                                   {"longrope", Kind::LongRope},
                                   {"su", Kind::LongRope},
                                   {"yarn", Kind::LongRope}};

// The dictionary of RoPE settings: a non-empty rope_scaling (v4) hides rope_parameters (v5), as
// PreTrainedConfig.convert_rope_params_to_dict does.
const Value* rope_dictionary(const JsonFields& fields) {
  for (std::string_view key : {"rope_scaling", "rope_parameters"}) {
    const Value* value = fields.find(key);
    if (!value) continue;
    if (!value->is_object()) fields.wrong(key, *value, "object");
    if (value->as_object().empty()) continue;
    for (const auto& [member, x] : value->as_object())
      if (x.is_object())
        fail(ErrorCode::BadInput, "{}: settings per layer type (\"{}\") are not supported",
             fields.place(key), escaped(member));
    return value;
  }
  return nullptr;
}

Kind parse_kind(const JsonFields& rope, std::span<const KindName> supported) {
  const std::string_view key = rope.find("rope_type") ? "rope_type" : "type";
  const std::string type = rope.text(key, "default");
  std::vector<std::string_view> names;
  for (const KindName& kind : supported) {
    if (kind.name == type) return kind.kind;
    names.push_back(kind.name);
  }
  fail(ErrorCode::BadInput, "{}: RoPE type \"{}\" is not supported; supported: {}", rope.place(key),
       escaped(type), fmt::join(names, ", "));
}

// Rotated columns of a head.
int64_t parse_dim(const JsonFields& fields, const JsonFields& rope, int64_t D, bool is_phi3) {
  const char* key = "partial_rotary_factor";
  const JsonFields& where = rope.find(key) ? rope : fields;
  const double share = where.number(key, 1, 0, kMaxNumber);
  if (!is_phi3 && share != 1)
    fail(ErrorCode::BadInput, "{}: only 1 is supported but in phi3 models", where.place(key));
  const auto dim = static_cast<int64_t>(static_cast<double>(D) * std::min(share, 2.0));
  if (dim < 1 || dim > D)
    fail(ErrorCode::BadInput, "{}: {} of a head of {} columns is {}, expected 1 to {}",
         where.place(key), share, D, dim, D);
  return dim;
}

void parse_llama3(const JsonFields& rope, RopeConfig& config) {
  config.factor = rope.required_number("factor", 1, kMaxNumber);
  config.low_freq_factor = rope.required_number("low_freq_factor", kLeast, kMaxNumber);
  config.high_freq_factor = rope.required_number("high_freq_factor", kLeast, kMaxNumber);
  if (config.high_freq_factor <= config.low_freq_factor)
    fail(ErrorCode::BadInput, "{}: found {}, expected more than low_freq_factor {}",
         rope.place("high_freq_factor"), config.high_freq_factor, config.low_freq_factor);
}

// How far the length of the pretraining is stretched when `factor` does not say.
double ratio(const RopeConfig& config, int64_t max_positions) {
  return static_cast<double>(max_positions) / static_cast<double>(config.original_max_positions);
}

// The scale of attention's temperature in arXiv:2309.00071, section 3.4.
double yarn_scale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

void parse_yarn(const JsonFields& rope, int64_t max_positions, RopeConfig& config) {
  config.factor = rope.number("factor", ratio(config, max_positions), kLeast, kMaxNumber);
  const double mscale = rope.number("mscale", 0, 0, kMaxNumber),
               mscale_all = rope.number("mscale_all_dim", 0, 0, kMaxNumber);
  const double scale = mscale > 0 && mscale_all > 0 ? yarn_scale(config.factor, mscale) /
                                                          yarn_scale(config.factor, mscale_all)
                                                    : yarn_scale(config.factor, 1);
  config.attention_factor = rope.number("attention_factor", scale, 0, kMaxNumber);
  config.beta_fast = rope.number("beta_fast", config.beta_fast, kLeast, kMaxNumber);
  config.beta_slow = rope.number("beta_slow", config.beta_slow, kLeast, kMaxNumber);
  config.truncate = rope.boolean("truncate", true);
  if (config.theta <= 1)
    fail(ErrorCode::BadInput, "{}: found {}, yarn expects more than 1", rope.place("rope_theta"),
         config.theta);
}

std::vector<float> factors(const JsonFields& rope, std::string_view key, int64_t count) {
  const Value& list = rope.required(key);
  if (!list.is_array()) rope.wrong(key, list, "list of numbers");
  if (std::ssize(list.as_array()) != count)
    fail(ErrorCode::BadInput, "{}: found {} numbers, expected {}", rope.place(key),
         list.as_array().size(), count);
  std::vector<float> values;
  for (const Value& x : list.as_array()) {
    if (!x.is_number()) rope.wrong(key, x, "number");
    if (!(x.as_number() >= kLeast && x.as_number() <= kMaxNumber))
      fail(ErrorCode::BadInput, "{}: found {}, expected {} to {}", rope.place(key), x.as_number(),
           kLeast, kMaxNumber);
    values.push_back(static_cast<float>(x.as_number()));
  }
  return values;
}

void parse_longrope(const JsonFields& rope, int64_t max_positions, RopeConfig& config) {
  const int64_t pairs = (config.dim + 1) / 2;
  config.short_factors = factors(rope, "short_factor", pairs);
  config.long_factors = factors(rope, "long_factor", pairs);
  config.factor = rope.number("factor", ratio(config, max_positions), kLeast, kMaxNumber);
  const auto original = static_cast<double>(config.original_max_positions);
  const double scale =
      config.factor <= 1 ? 1 : std::sqrt(1 + std::log(config.factor) / std::log(original));
  if (!std::isfinite(scale))
    fail(ErrorCode::BadInput, "{}: longrope expects more than {}", rope.place(kOriginal), original);
  config.attention_factor = rope.number("attention_factor", scale, 0, kMaxNumber);
}

}  // namespace

RopeConfig parse_rope(const JsonFields& fields, const ModelConfig& model, bool is_phi3) {
  static const Value empty{Value::Object{}};
  const Value* found = rope_dictionary(fields);
  const JsonFields rope(found ? *found : empty, fields.source());
  const int64_t max_positions = model.max_positions;
  RopeConfig config;
  config.theta =
      rope.number("rope_theta", fields.number("rope_theta", config.theta, kLeast, kMaxNumber),
                  kLeast, kMaxNumber);
  config.dim = parse_dim(fields, rope, model.D, is_phi3);
  config.kind = is_phi3 ? parse_kind(rope, kPhi3Kinds) : parse_kind(rope, kKinds);
  // A value at the top level wins over the dictionary's, as in standardize_rope_params; Phi3Config
  // always has one.
  const int64_t original =
      is_phi3 ? 4096 : rope.integer(kOriginal, max_positions, 1, kMaxPositions);
  config.original_max_positions = config.kind == Kind::Dynamic
                                      ? max_positions
                                      : fields.integer(kOriginal, original, 1, kMaxPositions);
  switch (config.kind) {
    case Kind::None:
    case Kind::Default:
      break;
    case Kind::Dynamic:
      if (config.dim < 3)
        fail(ErrorCode::BadInput, "{}: dynamic RoPE needs heads of more than 2 columns",
             fields.source());
      [[fallthrough]];
    case Kind::Linear:
      config.factor = rope.required_number("factor", 1, kMaxNumber);
      break;
    case Kind::Llama3:
      parse_llama3(rope, config);
      break;
    case Kind::Yarn:
      parse_yarn(rope, max_positions, config);
      break;
    case Kind::LongRope:
      parse_longrope(rope, max_positions, config);
      break;
  }
  return config;
}

std::string_view name(RopeConfig::Kind kind) {
  for (const KindName& known : kKinds)
    if (known.kind == kind) return known.name;
  return "none (learned positions)";
}

int64_t stretched_positions(const RopeConfig& rope, int64_t max_positions) {
  const bool stretches = rope.kind == Kind::Linear || rope.kind == Kind::Dynamic;
  if (!stretches && rope.kind != Kind::Yarn) return max_positions;
  const int64_t length = stretches ? max_positions : rope.original_max_positions;
  const double stretched = rope.factor * static_cast<double>(length);
  return std::max(max_positions,
                  static_cast<int64_t>(std::min(stretched, static_cast<double>(kMaxPositions))));
}

}  // namespace lema
