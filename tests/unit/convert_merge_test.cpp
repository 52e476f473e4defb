// lema merge: merged numbers against a product in double precision, shards and their index, what is
// left alone, and which adapters are refused.
#include <cmath>

#include "convert/merge.h"
#include "formats/hf_model.h"
#include "formats/peft_adapter.h"
#include "support/scrambled_model.h"
#include "support/temp_folder.h"

using namespace lema;
using namespace lema::test;

namespace {

const ReportProgress kQuiet = [](const Progress&) {};
constexpr int64_t kRank = 3;

AdapterModule random_pair(int64_t in, int64_t out, int salt) {
  AdapterModule module;
  module.rank = kRank;
  module.in = in;
  module.out = out;
  const auto fill = [&](std::vector<float>& values, int64_t n, int step) {
    for (int64_t i = 0; i < n; ++i)
      values.push_back(static_cast<float>((i * step + salt * 13) % 17) / 8.0f - 1.0f);
  };
  fill(module.a, kRank * in, 5);
  fill(module.b, out * kRank, 7);
  return module;
}

// Pairs for the linears of `model` whose module ends in one of `names`.
Adapter adapter_for(const ScrambledModel& model, const std::vector<std::string>& names) {
  Adapter adapter;
  adapter.config.base_model = "base";
  adapter.config.rank = kRank;
  adapter.config.alpha = 2;
  adapter.config.target_modules = names;
  const ModelSpec spec = spec_of(model);
  adapter.config.fan_in_fan_out = spec.linear_transposed;
  int salt = 0;
  for (const FieldSpec& field : fields_of(spec))
    for (const std::string& name : names)
      if (field.module.ends_with(name)) {
        const bool transposed = spec.linear_transposed && field.module != "lm_head";
        const int64_t out = field.shape[transposed ? 1 : 0], in = field.shape[transposed ? 0 : 1];
        adapter.modules[field.module] = random_pair(in, out, ++salt);
      }
  return adapter;
}

void save_adapter(const fs::path& folder, const Adapter& adapter) {
  fs::create_directories(folder);
  write_adapter(folder, adapter);
}

// W + alpha / r * B A in double, in the layout of the file.
std::vector<double> expected_values(std::vector<float> weight, const AdapterModule& m, double scale,
                                    bool transposed) {
  std::vector<double> out(weight.begin(), weight.end());
  for (int64_t o = 0; o < m.out; ++o)
    for (int64_t i = 0; i < m.in; ++i) {
      double sum = 0;
      for (int64_t r = 0; r < m.rank; ++r)
        sum += double{m.b[static_cast<size_t>(o * m.rank + r)]} *
               m.a[static_cast<size_t>(r * m.in + i)];
      out[static_cast<size_t>(transposed ? i * m.out + o : o * m.in + i)] += scale * sum;
    }
  return out;
}

}  // namespace

TEST_CASE("merged numbers are W + alpha / r * B A, the rest is untouched") {
  struct Case {
    ScrambledModel model;
    std::vector<std::string> targets;
    std::optional<DType> dtype;
  };
  const std::vector<Case> cases = {
      {{.config = small_llama(false)}, {"q_proj", "k_proj", "o_proj", "down_proj", "lm_head"}, {}},
      {{.config = small_llama(true, true), .dtype = DType::BF16, .shards = 2}, {"gate_proj"}, {}},
      {{.config = small_llama(true), .dtype = DType::BF16}, {"up_proj"}, DType::F32},
      {{.config = small_like("phi3", "Phi3ForCausalLM"), .shards = 2},
       {"qkv_proj", "gate_up_proj"},
       {}},
      {{.config = small_like("qwen3", "Qwen3ForCausalLM")}, {"q_proj", "v_proj"}, {}},
      {{.config = small_gpt2()}, {"c_attn", "c_fc", "c_proj"}, {}},
      {{.config = small_gpt2(), .dtype = DType::F16, .prefix = ""}, {"mlp.c_proj"}, {}}};
  for (size_t i = 0; i < cases.size(); ++i) {
    CAPTURE(i);
    const TempFolder folder("merge_values");
    const auto& [model, targets, dtype] = cases[i];
    write_scrambled(folder.path() / "base", model);
    const Adapter adapter = adapter_for(model, targets);
    save_adapter(folder.path() / "adapter", adapter);
    const MergeResult result = merge(
        {folder.path() / "base", folder.path() / "adapter", folder.path() / "out", dtype, 0, true},
        kQuiet);
    CHECK(result.adapted == std::ssize(adapter.modules));
    CHECK(result.shards == 1);
    REQUIRE(result.verified);
    CHECK(result.verified->relative_rms <= result.verified->tolerance);
    CHECK(result.verified->adapter_rms > 0.01);

    const ModelSpec spec = spec_of(model);
    const DType to = dtype.value_or(model.dtype);
    const double unit = to == DType::F32 ? 0x1p-24 : to == DType::F16 ? 0x1p-11 : 0x1p-8;
    const auto base = tensors_of(ModelFolder(folder.path() / "base"));
    const auto merged = tensors_of(ModelFolder(folder.path() / "out"));
    REQUIRE(base.size() == merged.size());
    for (const FieldSpec& field : fields_of(spec)) {
      CAPTURE(field.tensor);
      const std::vector<float> before = floats_of(base.at(field.tensor), model.dtype);
      const std::vector<float> after = floats_of(merged.at(field.tensor), to);
      const auto module = adapter.modules.find(field.module);
      if (module == adapter.modules.end()) {
        CHECK(before == after);
        continue;
      }
      const bool transposed = spec.linear_transposed && field.module != "lm_head";
      const auto expected =
          expected_values(before, module->second, adapter.config.alpha / kRank, transposed);
      double worst = 0;
      for (size_t k = 0; k < after.size(); ++k)
        worst = std::max(worst,
                         std::abs(after[k] - expected[k]) - (unit * std::abs(expected[k]) + 1e-6));
      CHECK(worst <= 0);
    }
  }
}

TEST_CASE("the report measures change and rounding") {
  const TempFolder folder("merge_report");
  ScrambledModel model{.config = small_llama(false), .dtype = DType::BF16};
  model.edit = [](const std::string& tensor, std::vector<float>& values) {
    if (tensor.ends_with("v_proj.weight")) values.assign(values.size(), 1.0f);
  };
  write_scrambled(folder.path() / "base", model);
  Adapter adapter = adapter_for(model, {"v_proj"});
  // dW = scale * 3 everywhere: 2/3 * 3 * a * b.
  for (auto& [path, module] : adapter.modules) {
    module.a.assign(module.a.size(), path.starts_with("model.layers.1") ? 0x1p-9f : 0x1p-12f);
    module.b.assign(module.b.size(), 1.0f);
  }
  save_adapter(folder.path() / "adapter", adapter);
  const MergeResult result = merge({folder.path() / "base", folder.path() / "adapter",
                                    folder.path() / "out", DType::BF16, 0, false},
                                   kQuiet);
  CHECK(std::abs(result.largest_change - 0x1p-8) < 1e-7);
  CHECK(result.most_changed == "model.layers.1.self_attn.v_proj.weight");
  // 1 + 2^-8 and 1 + 2^-11 both round to 1: the whole change is lost, and the report says so.
  const double lost = std::sqrt((0x1p-16 + 0x1p-22) / 2);
  CHECK(std::abs(result.change_rms - lost) < 1e-6);
  CHECK(std::abs(result.rounding_rms - lost) < 1e-6);
  // Which the comparison of logits does not let pass, small as the difference is.
  const std::string message = message_of(ErrorCode::Numeric, [&] {
    merge({folder.path() / "base", folder.path() / "adapter", folder.path() / "lost", DType::BF16,
           0, true},
          kQuiet);
  });
  CHECK(contains(message, "a wider --dtype rounds less"));
  CHECK(!fs::exists(folder.path() / "lost"));
}

TEST_CASE("shards hold whole tensors up to the size, and the index says where") {
  const TempFolder folder("merge_shards");
  const ScrambledModel model{.config = small_llama(false)};
  write_scrambled(folder.path() / "base", model);
  save_adapter(folder.path() / "adapter", adapter_for(model, {"q_proj"}));
  const auto merge_into = [&](const char* output, int64_t shard_bytes) {
    return merge({folder.path() / "base",
                  folder.path() / "adapter",
                  folder.path() / output,
                  {},
                  shard_bytes,
                  false},
                 kQuiet);
  };
  const MergeResult single = merge_into("single", 0), sharded = merge_into("sharded", 700);
  CHECK(single.shards == 1);
  CHECK(sharded.bytes == single.bytes);
  const ModelFolder folder_of_shards(folder.path() /
                                     "sharded");  // checks index, total_size and the shards' claims
  CHECK(std::ssize(folder_of_shards.files()) == sharded.shards);
  CHECK(tensors_of(folder_of_shards) == tensors_of(ModelFolder(folder.path() / "single")));
  std::vector<std::string> order;
  for (const SafetensorsFile& file : folder_of_shards.files()) {
    CHECK(file.data_offset() % 4096 == 0);
    int64_t bytes = 0;
    for (const TensorEntry& entry : file.tensors()) {
      bytes += entry.bytes;
      order.push_back(entry.name);
    }
    CHECK((bytes <= 700 || file.tensors().size() == 1));
  }
  const std::vector<FieldSpec> fields = fields_of(spec_of(model));
  REQUIRE(order.size() == fields.size());
  for (size_t i = 0; i < order.size(); ++i) CHECK(order[i] == fields[i].tensor);
  // A limit that holds everything is a single file without an index.
  CHECK(merge_into("roomy", single.bytes).shards == 1);
  CHECK(!fs::exists(folder.path() / "roomy" / "model.safetensors.index.json"));
}

TEST_CASE("adapters that do not fit the model are refused") {
  const TempFolder folder("merge_refused");
  const ScrambledModel model{.config = small_llama(true)};
  write_scrambled(folder.path() / "base", model);
  const auto refused = [&](const std::string& path, int64_t in, int64_t out, const char* part) {
    Adapter adapter = adapter_for(model, {"q_proj"});
    adapter.modules[path] = random_pair(in, out, 1);
    adapter.config.target_modules.push_back(path);
    fs::remove_all(folder.path() / "adapter");
    save_adapter(folder.path() / "adapter", adapter);
    const std::string message = message_of(ErrorCode::BadInput, [&] {
      merge(
          {folder.path() / "base", folder.path() / "adapter", folder.path() / "out", {}, 0, false},
          kQuiet);
    });
    INFO(message);
    CHECK(contains(message, "adapter: module " + path));
    CHECK(contains(message, part));
    CHECK(!fs::exists(folder.path() / "out"));
  };
  refused("model.layers.2.self_attn.q_proj", 8, 8, "is no linear of the model");
  refused("model.layers.1.input_layernorm", 8, 8, "is no linear of the model");
  refused("model.layers.1.self_attn.q_proj", 8, 4, "maps 8 to 4 numbers; the model's maps 8 to 8");
  refused("model.layers.1.mlp.up_proj", 12, 8, "maps 12 to 8 numbers; the model's maps 8 to 12");
  refused("lm_head", 8, 11, "the embedding's own matrix");
}

TEST_CASE("merged folders are not written into base or adapter") {
  const TempFolder folder("merge_output");
  const ScrambledModel model{.config = small_llama(false)};
  write_scrambled(folder.path() / "base", model);
  save_adapter(folder.path() / "adapter", adapter_for(model, {"q_proj"}));
  for (const char* output : {"base/out", "adapter/out", "adapter"})
    message_of(ErrorCode::Usage, [&] {
      merge(
          {folder.path() / "base", folder.path() / "adapter", folder.path() / output, {}, 0, false},
          kQuiet);
    });
}
