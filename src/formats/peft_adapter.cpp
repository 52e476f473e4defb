// PEFT adapter folders in and out. train and merge read and write adapters here; a checkpoint is
// such a folder.
#include "formats/peft_adapter.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "formats/confined_path.h"
#include "formats/json.h"

namespace lema {
namespace {

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightsFile = "adapter_model.safetensors";
constexpr std::string_view kPrefix = "base_model.model.";

// What a tensor is, by the end of its name.
enum class Part { A, B, EmbeddingA, EmbeddingB, Magnitude, BaseCopy, Twin, Full };
struct Suffix {
  std::string_view text;
  Part part;
};
// The first that fits: a matrix trained in full has the base tensor's own name.
constexpr std::array<Suffix, 12> kSuffixes = {{{".lora_A.weight", Part::A},
                                              {".lora_B.weight", Part::B},
                                              {".lora_embedding_A", Part::EmbeddingA},
                                              {".lora_embedding_B", Part::EmbeddingB},
                                              {".lora_magnitude_vector", Part::Magnitude},
                                              {".lora_magnitude_vector.weight", Part::Magnitude},
                                              {".base_layer.weight", Part::BaseCopy},
                                              {".base_layer.bias", Part::BaseCopy},
                                              {".modules_to_save.weight", Part::Twin},
                                              {".original_module.weight", Part::Twin},
                                              {".weight", Part::Full},
                                              {".bias", Part::Full}}};

template <typename T>
std::vector<float> widen(const std::vector<std::byte>& raw, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  const T* in = reinterpret_cast<const T*>(raw.data());
  for (size_t i = 0; i < values.size(); ++i) values[i] = to_f32(in[i]);
  return values;
}

void check_dtype(const TensorEntry& entry, const std::string& place) {
  if (entry.dtype != DType::F32 && entry.dtype != DType::BF16 && entry.dtype != DType::F16)
    fail(ErrorCode::BadInput, "{} is {}, expected F32, BF16 or F16", place, name(entry.dtype));
}

std::vector<float> read_as_f32(const SafetensorsFile& file, const TensorEntry& entry,
                               const std::string& place) {
  check_dtype(entry, place);
  const int64_t count = entry.shape.elements();
  std::vector<std::byte> raw(static_cast<size_t>(entry.bytes));
  file.read(entry, raw.data());
  std::vector<float> values = entry.dtype == DType::F32    ? widen<float>(raw, count)
                              : entry.dtype == DType::BF16 ? widen<bf16>(raw, count)
                                                           : widen<f16>(raw, count);
  const auto bad =
      std::find_if_not(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
  if (bad != values.end())
    fail(ErrorCode::BadInput, "{}: element {} is {}", place, bad - values.begin(), *bad);
  return values;
}

// Whether PEFT's modules_to_save names this module.
bool is_saved(const AdapterConfig& config, std::string_view path) {
  return std::any_of(
      config.modules_to_save.begin(), config.modules_to_save.end(),
      [&](const std::string& name) { return path == name || path.ends_with("." + name); });
}

// Reads the tensors of one file into an adapter whose config is there.
class TensorReader {
 public:
  TensorReader(const SafetensorsFile& file, Adapter& adapter) : file_(file), adapter_(adapter) {}

  void add(const TensorEntry& entry) {
    const std::string place =
        fmt::format("{}: tensor {}", file_.file().path().string(), escaped(entry.name));
    std::string_view path = entry.name;
    const auto suffix = std::find_if(kSuffixes.begin(), kSuffixes.end(),
                                     [&](const Suffix& s) { return path.ends_with(s.text); });
    if (!path.starts_with(kPrefix) || suffix == kSuffixes.end() ||
        path.size() <= kPrefix.size() + suffix->text.size())
      unsupported(place);
    path.remove_prefix(kPrefix.size());
    path.remove_suffix(suffix->text.size());
    const std::string module(path);
    switch (suffix->part) {
      case Part::Full:
        if (!is_saved(adapter_.config, path)) return add_base_copy(entry, place, module, *suffix);
        if (suffix->text != ".weight") unsupported(place);
        adapter_.full[module] = {matrix(entry, place), entry.shape};
        return;
      case Part::Twin:  // of a saved matrix, and the base's that it replaces: neither is applied
        if (!is_saved(adapter_.config, path)) unsupported(place);
        return;
      case Part::BaseCopy:
        return add_base_copy(entry, place, module, *suffix);
      default:
        if (is_saved(adapter_.config, path))
          fail(ErrorCode::BadInput, "{} belongs to a module that modules_to_save of {} names too",
               place, kConfigFile);
        add_to_module(entry, suffix->part, place, adapter_.modules[module]);
    }
  }

 private:
  [[noreturn]] static void unsupported(const std::string& place) {
    fail(ErrorCode::BadInput,
         "{} is not supported; expected {}MODULE.lora_A.weight, .lora_B.weight, "
         ".lora_magnitude_vector, .lora_embedding_A, .lora_embedding_B, a matrix of "
         "modules_to_save or a copy of a base weight",
         place, kPrefix);
  }

  std::vector<float> matrix(const TensorEntry& entry, const std::string& place) const {
    if (entry.shape.rank() != 2 || entry.shape.elements() == 0)
      fail(ErrorCode::BadInput, "{} is {}, expected a matrix", place, entry.shape.str());
    return read_as_f32(file_, entry, place);
  }

  void add_base_copy(const TensorEntry& entry, const std::string& place, const std::string& module,
                     const Suffix& suffix) {
    if (module.ends_with(".lora_A") || module.ends_with(".lora_B")) unsupported(place);
    const std::string_view kind = suffix.text.substr(suffix.text.rfind('.'));
    check_dtype(entry, place);
    adapter_.base_copies.push_back(
        {place, module + std::string(kind), suffix.part == Part::BaseCopy, entry});
  }

  void add_to_module(const TensorEntry& entry, Part part, const std::string& place,
                     AdapterModule& module) const {
    if (module.place.empty()) module.place = place;
    if (part == Part::Magnitude)
      add_magnitude(entry, place, module);
    else
      add_low_rank(entry, part, place, module);
  }

  void add_low_rank(const TensorEntry& entry, Part part, const std::string& place,
                    AdapterModule& module) const {
    const bool is_a = part == Part::A || part == Part::EmbeddingA;
    const int rank_axis = is_a ? 0 : 1;
    // With a pattern each module has a rank of its own, which A and B agree on.
    const int64_t expected = module.rank > 0                        ? module.rank
                             : adapter_.config.rank_pattern.empty() ? adapter_.config.rank
                                                                    : 0;
    const std::string rank = expected > 0 ? std::to_string(expected) : "rank";
    if (entry.shape.rank() != 2 || entry.shape[1 - rank_axis] < 1 || entry.shape[rank_axis] < 1 ||
        (expected > 0 && entry.shape[rank_axis] != expected))
      fail(ErrorCode::BadInput, "{} is {}; {} needs {}", place, entry.shape.str(),
           module.rank > 0 ? "the module's other matrix"
                           : fmt::format("r = {} of {}", adapter_.config.rank, kConfigFile),
           is_a ? fmt::format("[{}, in]", rank) : fmt::format("[out, {}]", rank));
    const bool is_embedding = part == Part::EmbeddingA || part == Part::EmbeddingB;
    if (module.rank > 0 && module.is_embedding != is_embedding)
      fail(ErrorCode::BadInput, "{}: the module's other matrix is {} embedding's", place,
           is_embedding ? "no" : "an");
    module.is_embedding = is_embedding;
    module.rank = entry.shape[rank_axis];
    (is_a ? module.in : module.out) = entry.shape[1 - rank_axis];
    (is_a ? module.a : module.b) = read_as_f32(file_, entry, place);
  }

  void add_magnitude(const TensorEntry& entry, const std::string& place,
                     AdapterModule& module) const {
    if (!adapter_.config.dora)
      fail(ErrorCode::BadInput, "{} belongs to DoRA, but use_dora of {} is false", place,
           kConfigFile);
    if (entry.shape.rank() != 1 || entry.shape[0] < 1)
      fail(ErrorCode::BadInput, "{} is {}, expected [out]", place, entry.shape.str());
    module.magnitude = read_as_f32(file_, entry, place);
  }

  const SafetensorsFile& file_;
  Adapter& adapter_;
};

// Each module whole, and each matrix of modules_to_save there.
void check_complete(const Adapter& adapter, const std::string& source) {
  for (const auto& [path, module] : adapter.modules) {
    const char* missing = module.a.empty()   ? "lora_A"
                          : module.b.empty() ? "lora_B"
                          : adapter.config.dora && module.magnitude.empty()
                              ? "lora_magnitude_vector"
                              : nullptr;
    if (missing)
      fail(ErrorCode::BadInput, "{}: module {} has no {}", source, escaped(path), missing);
    if (!module.magnitude.empty() && std::ssize(module.magnitude) != module.out)
      fail(ErrorCode::BadInput,
           "{}: module {}: lora_magnitude_vector has {} numbers, lora_B {} rows", source,
           escaped(path), module.magnitude.size(), module.out);
  }
  for (const std::string& saved : adapter.config.modules_to_save)
    if (std::none_of(adapter.full.begin(), adapter.full.end(), [&](const auto& full) {
          return full.first == saved || full.first.ends_with("." + saved);
        }))
      fail(ErrorCode::BadInput, "{}: no tensor of {}, which modules_to_save of {} names", source,
           escaped(saved), kConfigFile);
  if (adapter.modules.empty() && adapter.full.empty())
    fail(ErrorCode::BadInput, "{}: holds no tensors", source);
}

// The card's head is YAML, in which a JSON string is a string.
std::string model_card(const AdapterConfig& config) {
  const std::string base = dump_json(Value(config.base_model));
  return fmt::format(
      "---\nbase_model: {}\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n- "
      "lema\n---\n\n"
      "# {} adapter\n\nRank {}, alpha {}, trained with lema over {}. The base model is needed "
      "beside it:\n\n"
      "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
      "model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({}), \"PATH OF THIS "
      "FOLDER\")\n```\n",
      base, config.dora ? "DoRA" : "LoRA", config.rank, config.alpha, base, base);
}

void write_tensors(const fs::path& path, const Adapter& adapter) {
  std::vector<TensorSpec> specs;
  std::map<std::string, const std::vector<float>*> values;
  const auto add = [&](std::string name, const Shape& shape, const std::vector<float>& numbers) {
    check(std::ssize(numbers) == shape.elements(), "adapter tensor {}: {} values", name,
          numbers.size());
    values[name] = &numbers;
    specs.push_back({std::move(name), DType::F32, shape});
  };
  for (const auto& [module_path, m] : adapter.modules) {
    const std::string front = std::string(kPrefix) + module_path;
    add(front + (m.is_embedding ? ".lora_embedding_A" : ".lora_A.weight"), {m.rank, m.in}, m.a);
    add(front + (m.is_embedding ? ".lora_embedding_B" : ".lora_B.weight"), {m.out, m.rank}, m.b);
    if (!m.magnitude.empty()) add(front + ".lora_magnitude_vector", {m.out}, m.magnitude);
  }
  for (const auto& [module_path, full] : adapter.full)
    add(std::string(kPrefix) + module_path + ".weight", full.shape, full.values);
  sort_as_reference_writer(specs);
  SafetensorsWriter writer(path, specs, {{"format", "pt"}});
  for (const TensorSpec& spec : specs)
    writer.write(values[spec.name]->data(),
                 std::ssize(*values[spec.name]) * int64_t{sizeof(float)});
  writer.finish();
}

}  // namespace

Adapter read_adapter(const fs::path& folder) {
  const std::string source = folder.string();
  if (!fs::exists(folder))
    fail(ErrorCode::BadInput, "{}: no such folder; expected a PEFT adapter folder", source);
  const auto config_path = confined_path(folder, kConfigFile, source);
  if (!config_path)
    fail(ErrorCode::BadInput, "{}: no {}; expected a PEFT adapter folder", source, kConfigFile);
  const auto weights_path = confined_path(folder, kWeightsFile, source);
  if (!weights_path)
    fail(ErrorCode::BadInput, "{}: no {}{}", source, kWeightsFile,
         confined_path(folder, "adapter_model.bin", source)
             ? "; adapter_model.bin (a pickle) is not read: save it as safetensors with PEFT"
             : "");

  const Value json =
      parse_json(read_text(*config_path, JsonLimits{}.max_bytes), config_path->string());
  Adapter adapter;
  adapter.config = parse_adapter_config(json, config_path->string());
  SafetensorsFile file(*weights_path);
  TensorReader reader(file, adapter);
  for (const TensorEntry& entry : file.tensors()) reader.add(entry);
  check_complete(adapter, weights_path->string());
  if (!adapter.base_copies.empty()) adapter.file = std::move(file);
  const Value* targets = json.find("target_modules");
  if (!targets || targets->is_null())
    for (const auto& [path, module] : adapter.modules)
      adapter.config.target_modules.push_back(path);
  return adapter;
}

FullModule read_base_copy(const SafetensorsFile& file, const BaseCopy& copy) {
  return {read_as_f32(file, copy.entry, copy.place), copy.entry.shape};
}

std::optional<fs::path> adapter_template(const fs::path& folder) {
  return confined_path(folder, kAdapterTemplate, folder.string());
}

void write_adapter(const fs::path& folder, const Adapter& adapter) {
  write_new_file(folder / kConfigFile, dump_json(adapter_config_json(adapter.config), 2, true));
  write_tensors(folder / kWeightsFile, adapter);
  write_new_file(folder / "README.md", model_card(adapter.config));
}

}  // namespace lema
