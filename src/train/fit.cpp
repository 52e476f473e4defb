// A search over few knobs, each a list of values from the config's own on outwards.
#include "train/fit.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/error.h"
#include "core/units.h"

namespace lema {
namespace {

using Changes = std::vector<std::pair<std::string, std::string>>;

// One setting: the values it may take, nearest first; the amount falls along them.
struct Knob {
  std::string key;
  std::vector<std::string> values;
  std::function<void(RunConfig&, const std::string&)> set;
};

int64_t number(const std::string& text) { return std::stoll(text); }

Knob choice(std::string key, bool applies, std::vector<std::string> values,
            std::string RunConfig::Memory::*field) {
  return {std::move(key), applies ? std::move(values) : std::vector<std::string>(),
          [field](RunConfig& c, const std::string& v) { c.memory.*field = v; }};
}

std::vector<std::string> downward(int64_t from, int64_t to) {
  std::vector<std::string> values;
  for (int64_t value = from; value >= to; --value) values.push_back(std::to_string(value));
  return values;
}

// The budget, where what is placed goes by it: device memory is filled up to what there is, the
// host's only where memory.ram says how far.
Knob budget(const RunConfig& config, const FitGoal& goal) {
  const bool is_vram = goal.kind == FitGoal::Kind::Vram;
  const auto field = is_vram ? &RunConfig::Memory::vram_bytes : &RunConfig::Memory::ram_bytes;
  const int64_t now = config.memory.*field, limit = std::llround(goal.limit);
  Knob knob{is_vram ? "memory.vram" : "memory.ram",
            {},
            [field](RunConfig& c, const std::string& v) { c.memory.*field = number(v); }};
  const bool applies = is_vram || (goal.kind == FitGoal::Kind::Ram && now > 0);
  if (applies && limit > 0 && now != limit)
    knob.values.push_back(std::to_string(limit));
  return knob;
}

Knob slots(const RunConfig& config) {
  return {"memory.slots",
          config.memory.slots > 2 ? std::vector<std::string>{"auto"} : std::vector<std::string>(),
          [](RunConfig& c, const std::string&) { c.memory.slots = 0; }};
}

Knob micro_batch(const RunConfig& config, const DataFacts& data) {
  const int64_t rows = step_bounds(config, data).micro_rows;
  return {"train.micro_batch_size", downward(rows - 1, 1),
          [](RunConfig& c, const std::string& v) { c.train.micro_batch_size = number(v); }};
}

Knob token_tile(const RunConfig& config) {
  constexpr int64_t kSmallest = 64;
  Knob knob{"train.token_tile", {}, [](RunConfig& c, const std::string& v) {
              c.train.token_tile = number(v);
            }};
  for (int64_t tile = config.train.token_tile / 2; tile >= kSmallest; tile /= 2)
    knob.values.push_back(std::to_string(tile));
  return knob;
}

Knob batch_size(const RunConfig& config, const DataFacts& data) {
  const int64_t rows = step_bounds(config, data).rows;
  return {"train.batch_size", downward(rows - 1, 1),
          [](RunConfig& c, const std::string& v) { c.train.batch_size = number(v); }};
}

// Rows above it are left out: their lengths are the steps of this knob. Not where the rows that are
// evaluated are drawn from all: that draw would change too.
Knob max_tokens(const RunConfig& config, const DataFacts& data) {
  Knob knob{"data.max_tokens", {}, [](RunConfig& c, const std::string& v) {
              c.data.max_tokens = number(v);
              c.data.too_long = "drop";
            }};
  if (config.data.eval_fraction > 0) return knob;
  std::vector<int64_t> lengths;
  int64_t floor = 1;  // every set keeps a row
  for (const std::vector<RowShape>* rows : {&data.train, &data.eval}) {
    int64_t shortest = INT64_MAX;
    for (const RowShape& row : *rows) {
      lengths.push_back(row.tokens);
      shortest = std::min(shortest, row.tokens);
    }
    if (!rows->empty()) floor = std::max(floor, shortest);
  }
  std::sort(lengths.begin(), lengths.end(), std::greater<>());
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  for (const int64_t length : lengths)
    if (length >= floor && length < config.data.max_tokens)
      knob.values.push_back(std::to_string(length));
  return knob;
}

std::vector<Knob> knobs(const RunConfig& config, const DataFacts& data, FitGoal::Kind kind) {
  const RunConfig::Memory& m = config.memory;
  std::vector<Knob> list;
  switch (kind) {
    case FitGoal::Kind::Vram:
      list = {slots(config),
              choice("memory.residency", m.residency == "resident", {"auto"},
                     &RunConfig::Memory::residency),
              choice("memory.activations", m.activations == "keep", {"auto"},
                     &RunConfig::Memory::activations),
              choice("memory.activations", m.activations == "recompute", {"offload"},
                     &RunConfig::Memory::activations),
              micro_batch(config, data),
              token_tile(config)};
      break;
    case FitGoal::Kind::Ram:
      list = {slots(config),
              choice("memory.residency", m.residency == "resident", {"auto"},
                     &RunConfig::Memory::residency),
              choice("memory.activations", m.activations == "keep", {"auto", "recompute"},
                     &RunConfig::Memory::activations),
              choice("memory.activations", m.activations == "auto" || m.activations == "offload",
                     {"recompute"}, &RunConfig::Memory::activations),
              choice("memory.disk",
                     m.ram_bytes == 0 && (m.disk == "buffered" || m.disk == "direct"), {"mmap"},
                     &RunConfig::Memory::disk),
              micro_batch(config, data), token_tile(config)};
      break;
    case FitGoal::Kind::StepMs:
      list = {choice("memory.activations", m.activations != "keep", {"keep"},
                     &RunConfig::Memory::activations)};
      break;
  }
  list.push_back(batch_size(config, data));
  list.push_back(max_tokens(config, data));
  std::erase_if(list, [](const Knob& knob) { return knob.values.empty(); });
  return list;
}

class Search {
 public:
  Search(const RunConfig& config, const DataFacts& data, const FitGoal& goal, const Amount& amount)
      : config_(config), data_(data), goal_(goal), amount_(amount) {}

  FitResult run() {
    if (const FitResult same = result({}); same.fits) return same;
    const Knob limit = budget(config_, goal_);
    std::vector<Setting> settings;
    if (!limit.values.empty()) settings.emplace_back(&limit, limit.values.front());
    const FitResult within = result(settings);
    if (within.fits) return within;
    const std::vector<Knob> list = knobs(config_, data_, goal_.kind);
    for (const Knob& knob : list)
      if (can_fit(settings, knob)) return nearest(settings, knob);
    double least = within.amount;
    for (const Knob& knob : list) {
      if (can_fit(settings, knob)) return nearest(settings, knob);
      settings.emplace_back(&knob, knob.values.back());
      const double with = result(settings).amount;
      settings.pop_back();
      if (with >= least) continue;
      least = with;
      settings.push_back(
          first(settings, knob, [&](const FitResult& r) { return r.amount <= least; }));
    }
    FitResult found = result(settings);
    std::erase_if(found.changes, [&](const auto& change) { return change.first == limit.key; });
    return found;
  }

 private:
  using Setting = std::pair<const Knob*, std::string>;

  FitResult result(const std::vector<Setting>& settings) const {
    FitResult r;
    r.config = config_;
    for (const auto& [knob, value] : settings) {
      knob->set(r.config, value);
      r.changes.emplace_back(knob->key, value);
    }
    if (r.config.data.too_long != config_.data.too_long)
      r.changes.emplace_back("data.too_long", r.config.data.too_long);
    const Need need = amount_(r.config, rows_of(r.config));
    r.amount = need.amount;
    r.fits = need.can_run && need.amount <= goal_.limit;
    return r;
  }

  // The rows that the config lets through.
  DataFacts rows_of(const RunConfig& config) const {
    DataFacts facts = data_;
    for (std::vector<RowShape>* rows : {&facts.train, &facts.eval})
      std::erase_if(*rows,
                    [&](const RowShape& row) { return row.tokens > config.data.max_tokens; });
    return facts;
  }

  // The first value of the knob, beside what is set, whose result is enough; else the last one.
  Setting first(std::vector<Setting> settings, const Knob& knob,
                const std::function<bool(const FitResult&)>& is_enough) const {
    size_t low = 0, high = knob.values.size() - 1;
    settings.emplace_back(&knob, "");
    while (low < high) {
      const size_t middle = (low + high) / 2;
      settings.back().second = knob.values[middle];
      if (is_enough(result(settings)))
        high = middle;
      else
        low = middle + 1;
    }
    return {&knob, knob.values[low]};
  }

  bool can_fit(std::vector<Setting> settings, const Knob& knob) const {
    settings.emplace_back(&knob, knob.values.back());
    return result(settings).fits;
  }

  // The last knob no further than needed, and without what turns out to be unneeded beside it.
  FitResult nearest(std::vector<Setting> settings, const Knob& last) const {
    settings.push_back(first(settings, last, [](const FitResult& r) { return r.fits; }));
    for (size_t i = 0; i + 1 < settings.size();) {
      std::vector<Setting> fewer = settings;
      fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(i));
      if (result(fewer).fits)
        settings = std::move(fewer);
      else
        ++i;
    }
    return result(settings);
  }

  const RunConfig& config_;
  const DataFacts& data_;
  const FitGoal& goal_;
  const Amount& amount_;
};

}  // namespace

FitGoal parse_fit_goal(const std::string& text) {
  const size_t equals = text.find('=');
  const std::string key = text.substr(0, equals),
                    value = equals == std::string::npos ? "" : text.substr(equals + 1);
  if (key == "vram" || key == "ram") {
    if (const auto bytes = parse_bytes(value))
      return {key == "vram" ? FitGoal::Kind::Vram : FitGoal::Kind::Ram,
              static_cast<double>(*bytes)};
  } else if (key == "step_ms") {
    double ms = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), ms);
    if (error == std::errc() && end == value.data() + value.size() && ms > 0)
      return {FitGoal::Kind::StepMs, ms};
  }
  fail(ErrorCode::Usage, "--fit {}: expected vram=SIZE, ram=SIZE or step_ms=NUMBER", text);
}

std::string describe(const FitGoal& goal, double amount) {
  if (goal.kind == FitGoal::Kind::StepMs) return fmt::format("{:.0f} ms a step", amount);
  return fmt::format("{} of {} memory", format_bytes(std::llround(amount)),
                     goal.kind == FitGoal::Kind::Vram ? "device" : "the process's own");
}

FitResult fit(const RunConfig& config, const DataFacts& data, const FitGoal& goal,
              const Amount& amount) {
  return Search(config, data, goal, amount).run();
}

std::string to_string(const Changes& changes) {
  std::string text;
  for (const auto& [key, value] : changes)
    text += fmt::format("{}{}={}", text.empty() ? "" : " ", key, value);
  return text;
}

}  // namespace lema
