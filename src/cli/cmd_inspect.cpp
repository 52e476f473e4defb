// `lema inspect PATH`: what a model folder, a safetensors file, an adapter, a checkpoint, the
// folder of a run or a GGUF file holds. Opening one runs every check its reader has, checksums
// among them, so what is not sound fails with the reader's message and exit code 3.
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "core/error.h"
#include "core/units.h"
#include "data/model_text.h"
#include "formats/gguf_import.h"
#include "formats/hf_model.h"
#include "formats/hf_rope.h"
#include "formats/json.h"
#include "formats/manifest.h"
#include "formats/peft_adapter.h"
#include "formats/tokenizer_files.h"
#include "layout/piece_table.h"
#include "model/adapter_rules.h"
#include "train/run_folder.h"

namespace lema {
namespace {

// What is printed: an object for --json; `key: value` lines and a list of tensors for people.
struct Report {
  Value facts{Value::Object{}};
  Value::Array tensors;  // {name, dtype, shape, bytes}

  void add(std::string_view key, Value value) { facts.set(key, std::move(value)); }
};

// Sums over tensors, and the list itself.
class TensorCount {
 public:
  void add(Report& report, const std::string& name, std::string_view dtype, const Shape& shape,
           int64_t bytes) {
    elements_ += shape.elements();
    bytes_ += bytes;
    bytes_by_dtype_[std::string(dtype)] += bytes;
    Value::Array dims;
    for (int i = 0; i < shape.rank(); ++i) dims.emplace_back(shape[i]);
    report.tensors.push_back(Value::Object{
        {"name", name}, {"dtype", dtype}, {"shape", std::move(dims)}, {"bytes", bytes}});
  }
  void finish(Report& report) const {
    report.add("tensors", static_cast<int64_t>(report.tensors.size()));
    report.add("parameters", elements_);
    report.add("tensor_bytes", bytes_);
    Value by_dtype{Value::Object{}};
    for (const auto& [dtype, bytes] : bytes_by_dtype_) by_dtype.set(dtype, bytes);
    report.add("bytes_by_dtype", std::move(by_dtype));
  }

 private:
  int64_t elements_ = 0, bytes_ = 0;
  std::map<std::string, int64_t> bytes_by_dtype_;
};

Report inspect_safetensors(const fs::path& path) {
  const SafetensorsFile file(path);
  Report report;
  report.add("kind", "safetensors");
  report.add("file_bytes", file.file().size());
  report.add("data_offset", file.data_offset());
  Value metadata{Value::Object{}};
  for (const auto& [key, value] : file.metadata()) metadata.set(key, value);
  report.add("metadata", std::move(metadata));
  TensorCount count;
  for (const TensorEntry& tensor : file.tensors())
    count.add(report, tensor.name, name(tensor.dtype), tensor.shape, tensor.bytes);
  count.finish(report);
  return report;
}

void add_text(Report& report, const ModelFolder& folder) {
  if (!has_tokenizer(FolderReader(folder.path()))) {
    report.add("tokenizer", "none");
    return;
  }
  const ModelText text = load_model_text(folder);
  report.add("tokenizer",
             fmt::format("{}, {} ids", text.tokenizer_file(), text.tokenizer().vocab_size()));
  report.add("chat_template", text.has_template() ? text.template_origin() : "none");
  Value::Array stops;
  for (const int64_t id : text.stop_ids())
    stops.emplace_back(fmt::format("{} {}", id, text.tokenizer().token(static_cast<int32_t>(id))));
  report.add("stop_tokens", std::move(stops));
}

Report inspect_model(const fs::path& path) {
  const ModelFolder folder(path);
  const ModelConfig& config = folder.config();
  Report report;
  report.add("kind", "model");
  report.add("model_type", config.model_type);
  report.add("blocks", config.L);
  report.add("width", config.C);
  report.add("feed_forward_width", config.F);
  report.add("heads", config.H);
  report.add("kv_heads", config.Hkv);
  report.add("head_size", config.D);
  report.add("vocabulary", config.V);
  report.add("max_positions", config.max_positions);
  report.add("rope", name(config.rope.kind));
  if (config.rope.dim > 0 && config.rope.dim < config.D)
    report.add("rotated_columns", config.rope.dim);
  if (const int64_t window = *std::max_element(config.windows.begin(), config.windows.end())) {
    report.add("sliding_window", window);
    report.add("windowed_blocks",
               config.L - std::count(config.windows.begin(), config.windows.end(), int64_t{0}));
  }
  // Every tensor against config.json; whether each piece is one read is what `lema convert` is for.
  const PieceTable table = make_piece_table(folder);
  report.add("tied_head", table.spec.has_tied_head());
  const bool is_contiguous =
      std::all_of(table.blocks.begin(), table.blocks.end(), [](const Unit& unit) {
        return std::all_of(unit.pieces.begin(), unit.pieces.end(),
                           [](const Piece& piece) { return piece.extents.size() == 1; });
      });
  report.add("files", static_cast<int64_t>(folder.files().size()));
  report.add("one_read_per_piece", is_contiguous);
  add_text(report, folder);
  TensorCount count;
  for (const auto& [tensor, stored] : folder.tensors())
    count.add(report, tensor, name(stored.entry.dtype), stored.entry.shape, stored.entry.bytes);
  count.finish(report);
  return report;
}

template <typename T>
Value object(const std::vector<std::pair<std::string, T>>& entries) {
  Value object{Value::Object{}};
  for (const auto& [key, value] : entries) object.set(key, value);
  return object;
}

Value list(const std::vector<std::string>& names) {
  return Value(Value::Array(names.begin(), names.end()));
}

void add_method(Report& report, const AdapterConfig& config) {
  report.add("base_model", config.base_model);
  report.add("method", fmt::format("{}{}", config.dora ? "DoRA" : "LoRA",
                                   config.rslora ? ", alpha / sqrt(rank)" : ""));
  report.add("rank", config.rank);
  report.add("alpha", config.alpha);
  report.add("dropout", config.dropout);
  report.add("targets", config.target_regex.empty() ? list(config.target_modules)
                                                    : Value(config.target_regex));
  if (!config.rank_pattern.empty()) report.add("rank_pattern", object(config.rank_pattern));
  if (!config.alpha_pattern.empty()) report.add("alpha_pattern", object(config.alpha_pattern));
  if (!config.modules_to_save.empty())
    report.add("modules_to_save", list(config.modules_to_save));
}

void add_adapter(Report& report, const fs::path& path) {
  Adapter adapter = read_adapter(path);
  resolve_targets(adapter, path.string());
  const AdapterRules rules(adapter.config, path.string());
  check_ranks(adapter, rules, path.string());
  for (const auto& [module, pair] : adapter.modules) rules.alpha(module);
  add_method(report, adapter.config);
  report.add("modules", static_cast<int64_t>(adapter.modules.size()));
  TensorCount count;
  for (const auto& [module, pair] : adapter.modules) {
    const auto add = [&](const char* suffix, const Shape& shape) {
      count.add(report, module + suffix, "F32", shape, shape.elements() * 4);
    };
    add(pair.is_embedding ? ".lora_embedding_A" : ".lora_A", {pair.rank, pair.in});
    add(pair.is_embedding ? ".lora_embedding_B" : ".lora_B", {pair.out, pair.rank});
    if (!pair.magnitude.empty()) add(".lora_magnitude_vector", {pair.out});
  }
  for (const auto& [module, full] : adapter.full)
    count.add(report, module, "F32", full.shape, full.shape.elements() * 4);
  if (!adapter.base_copies.empty())
    report.add("copies_of_base_weights", static_cast<int64_t>(adapter.base_copies.size()));
  count.finish(report);
}

Report inspect_adapter(const fs::path& path) {
  Report report;
  report.add("kind", "adapter");
  add_adapter(report, path);
  return report;
}

Report inspect_checkpoint(const fs::path& path) {
  if (const auto reason = unsound(path)) fail(ErrorCode::BadInput, "{}", *reason);
  const Manifest manifest = read_manifest(path);
  Report report;
  report.add("kind", "checkpoint");
  report.add("step", manifest.step);
  report.add("run_id", manifest.run_id);
  Value files{Value::Object{}};
  for (const auto& [file, item] : manifest.files) files.set(file, item.bytes);
  report.add("files", std::move(files));
  if (manifest.files.contains("adapter_config.json")) add_adapter(report, path);
  return report;
}

// The folder of a run; BadInput when it holds checkpoints and none of them can be resumed from.
Report inspect_run(const fs::path& path) {
  Report report;
  report.add("kind", "run");
  Value found{Value::Object{}};
  std::string newest_sound, first_reason;
  for (const fs::path& checkpoint : checkpoints(path)) {
    const auto reason = unsound(checkpoint);
    const std::string folder = checkpoint.filename().string();
    found.set(folder, reason ? *reason : "sound");
    if (!reason && newest_sound.empty()) newest_sound = folder;
    if (reason && first_reason.empty()) first_reason = *reason;
  }
  if (newest_sound.empty() && !first_reason.empty())
    fail(ErrorCode::BadInput, "{}: no sound checkpoint: {}", path.string(), first_reason);
  report.add("resumes_from", newest_sound.empty() ? Value() : Value(newest_sound));
  for (const char* link : {"last", "best"}) {
    std::error_code error;
    const fs::path target = fs::read_symlink(path / link, error);
    report.add(link, error ? Value() : Value(target.string()));
  }
  report.add("checkpoints", std::move(found));
  return report;
}

Report inspect_gguf(const fs::path& path) {
  const GgufFile file(path);
  Report report;
  report.add("kind", "gguf");
  report.add("version", int64_t{file.version()});
  Value metadata{Value::Object{}};
  for (const auto& [key, value] : file.metadata().as_object())
    metadata.set(
        key, value.is_array() ? Value(fmt::format("{} elements", value.as_array().size())) : value);
  report.add("metadata", std::move(metadata));
  try {
    import_gguf(file);
    report.add("convertible", true);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::BadInput) throw;
    report.add("convertible", false);
    report.add("reason", error.what());
  }
  TensorCount count;
  for (const GgufTensor& tensor : file.tensors())
    count.add(report, tensor.name, tensor.type.name, tensor.shape, tensor.bytes);
  count.finish(report);
  return report;
}

Report inspect_folder(const fs::path& path) {
  if (fs::exists(path / kManifestName) || fs::exists(path / "state.json"))
    return inspect_checkpoint(path);
  if (fs::exists(path / "adapter_config.json")) return inspect_adapter(path);
  if (fs::exists(path / "config.json")) return inspect_model(path);
  if (fs::exists(path / "run.json")) return inspect_run(path);
  fail(ErrorCode::BadInput, "{}: a folder without {}, adapter_config.json, config.json or run.json",
       path.string(), kManifestName);
}

Report inspect(const fs::path& path) {
  if (fs::is_directory(path)) return inspect_folder(path);
  const File file = File::open(path);
  char magic[4] = {};
  if (file.size() >= 4) file.read_at(magic, 4, 0);
  return std::string_view(magic, 4) == "GGUF" ? inspect_gguf(path) : inspect_safetensors(path);
}

// Untrusted text on one line of at most 200 bytes.
std::string shown(std::string_view key, const Value& value) {
  if (value.is_int() && key.ends_with("bytes")) return format_bytes(value.as_int());
  return escaped(value.is_string() ? value.as_string() : dump_json(value));
}

void print_for_people(const Report& report, bool list_tensors) {
  for (const auto& [key, value] : report.facts.as_object()) {
    if (!value.is_object()) {
      fmt::print("{:<20} {}\n", key, shown(key, value));
      continue;
    }
    fmt::print("{}\n", key);
    for (const auto& [inner, x] : value.as_object())
      fmt::print("  {:<40} {}\n", escaped(inner),
                 shown(key == "files" || key == "bytes_by_dtype" ? "bytes" : "", x));
  }
  if (!list_tensors) return;
  for (const Value& tensor : report.tensors)
    fmt::print("{:<5} {:<20} {}\n", tensor.find("dtype")->as_string(),
               dump_json(*tensor.find("shape")), escaped(tensor.find("name")->as_string()));
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto& command = *app.add_subcommand("inspect",
                                      "What a model folder, safetensors, adapter, checkpoint, "
                                      "run folder or GGUF file holds, and whether it is sound");
  command.add_option("path", "Folder or file")->required()->type_name("PATH");
  command.add_flag("--json")->description("One JSON object");
  command.add_flag("--tensors")->description("List every tensor");
  command.callback([&command] {
    const bool is_json = command.count("--json") > 0;
    Report report;
    try {
      report = inspect(command["path"]->as<std::string>());
    } catch (const Error& error) {
      if (is_json && error.code() == ErrorCode::BadInput)
        fmt::print("{}\n", dump_json(Value::Object{{"sound", false}, {"reason", error.what()}}, 2));
      throw;
    }
    report.add("sound", true);
    const bool list_tensors = command.count("--tensors") > 0;
    if (!is_json) {
      print_for_people(report, list_tensors);
      return;
    }
    if (list_tensors) report.add("tensor_list", report.tensors);
    fmt::print("{}\n", dump_json(report.facts, 2));
  });
}

}  // namespace lema
