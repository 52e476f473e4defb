// Finds Llama-3's four settings from its factors: the published ones first, then a linear fit, each
// accepted only if it gives every factor back.
#include "formats/gguf_rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace lema {
namespace {

struct Settings {
  double factor, low, high;
  int64_t original;
};

double wavelength(size_t i, size_t count, double theta) {
  return 2 * std::numbers::pi *
         std::pow(theta, static_cast<double>(i) / static_cast<double>(count));
}

// The divisor of a frequency. Ref: _compute_llama3_parameters of transformers.
double divisor(const Settings& s, double wave) {
  const auto original = static_cast<double>(s.original);
  if (wave < original / s.high) return 1;
  if (wave > original / s.low) return s.factor;
  const double smooth = (original / wave - s.low) / (s.high - s.low);
  return 1 / ((1 - smooth) / s.factor + smooth);
}

// The file's factors were computed in f32, where the smooth part cancels digits: 1e-5 is some 80
// roundings, and any other published setting is off by more than 1e-2.
bool reproduces(const Settings& s, const std::vector<float>& factors, double theta) {
  for (size_t i = 0; i < factors.size(); ++i) {
    const double found = static_cast<double>(factors[i]);
    if (!(std::abs(divisor(s, wavelength(i, factors.size(), theta)) - found) <= 1e-5 * found))
      return false;
  }
  return true;
}

// With low = 1: (1/f - 1/factor) / (1 - 1/factor) = (original/wave - 1) / (high - 1), a line in
// 1/wave through the first and the last factor that is neither 1 nor the largest.
std::optional<Settings> fit(const std::vector<float>& factors, double factor, double theta) {
  std::vector<size_t> between;
  for (size_t i = 0; i < factors.size(); ++i)
    if (static_cast<double>(factors[i]) > 1 && static_cast<double>(factors[i]) < factor)
      between.push_back(i);
  if (between.size() < 2) return std::nullopt;
  const auto x = [&](size_t i) { return 1 / wavelength(i, factors.size(), theta); };
  const auto y = [&](size_t i) {
    return (1 / static_cast<double>(factors[i]) - 1 / factor) / (1 - 1 / factor);
  };
  const size_t first = between.front(), last = between.back();
  const double slope = (y(first) - y(last)) / (x(first) - x(last));
  const double intercept = y(first) - slope * x(first);
  if (!(slope > 0 && intercept < 0)) return std::nullopt;
  // Settings are round numbers: the nearest 1/64 and integer, kept only if they reproduce the
  // factors.
  const double high = std::round((1 - 1 / intercept) * 64) / 64;
  const double original = std::round(-slope / intercept);
  if (!(high > 1 && original >= 1 && original < 1e9)) return std::nullopt;
  return Settings{factor, 1, high, static_cast<int64_t>(original)};
}

}  // namespace

std::optional<Value> llama3_scaling(const std::vector<float>& factors, double theta,
                                    int64_t max_positions, const std::string& place) {
  const double factor =
      factors.empty() ? 1 : static_cast<double>(*std::max_element(factors.begin(), factors.end()));
  if (std::all_of(factors.begin(), factors.end(), [](float f) { return f == 1.0f; }))
    return std::nullopt;
  std::optional<Settings> found;
  for (const int64_t original : {int64_t{8192}, max_positions}) {
    const Settings published{factor, 1, 4, original};
    if (!found && reproduces(published, factors, theta)) found = published;
  }
  if (!found) {
    found = fit(factors, factor, theta);
    if (found && !reproduces(*found, factors, theta)) found.reset();
  }
  if (!found || !(factor >= 1 && std::isfinite(factor)))
    fail(ErrorCode::BadInput,
         "{}: these factors are not those of llama3 RoPE scaling; no other scaling is supported",
         place);
  return Value(Value::Object{{"rope_type", "llama3"},
                             {"factor", found->factor},
                             {"low_freq_factor", found->low},
                             {"high_freq_factor", found->high},
                             {"original_max_position_embeddings", found->original}});
}

}  // namespace lema
