// Opens a Hugging Face model folder: config.json, then model.safetensors or the shards of its
// index, every path confined to the folder. convert, train, merge, chat and eval all enter a model
// here.
#include "formats/hf_model.h"

#include <algorithm>
#include <set>

#include "formats/confined_path.h"
#include "formats/json.h"
#include "formats/json_fields.h"

namespace lema {
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

// What lies in the folder instead of safetensors weights, for the message.
std::string other_weights(const fs::path& folder) {
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string file = entry.path().filename().string();
    if (file.ends_with(".gguf") || file.ends_with(".safetensors") ||
        file.starts_with("pytorch_model") || file == "adapter_config.json")
      found.push_back(escaped(file));
  }
  std::sort(found.begin(), found.end());
  if (found.size() > 4) found.resize(4);
  if (found.empty()) return "";
  return fmt::format("; found {}{}", fmt::join(found, ", "),
                     found.front().ends_with(".gguf") ? " (lema convert reads a GGUF file)" : "");
}

// The index's claims: shard file -> tensor names. confined_path checks each as a path.
struct Index {
  std::map<std::string, std::set<std::string>> shards;
  std::optional<int64_t> total_size;
};

Index read_index(const fs::path& path) {
  const std::string source = path.string();
  const Value json =
      parse_json(read_text(path, kTokenizerJsonLimits.max_bytes), source, kTokenizerJsonLimits);
  const JsonFields fields(json, source);
  const Value& weight_map = fields.required("weight_map");
  if (!weight_map.is_object()) fields.wrong("weight_map", weight_map, "object");
  Index index;
  for (const auto& [tensor, file] : weight_map.as_object()) {
    if (!file.is_string())
      fail(ErrorCode::BadInput, "{}:{}: tensor {}: found {}, expected a file name", source,
           file.line, escaped(tensor), name(file.kind()));
    index.shards[file.as_string()].insert(tensor);
  }
  if (index.shards.empty()) fail(ErrorCode::BadInput, "{}: weight_map is empty", source);
  if (const Value* metadata = fields.find("metadata")) {
    const JsonFields members(*metadata, source);
    if (members.find("total_size"))
      index.total_size =
          members.required_integer("total_size", 0, std::numeric_limits<int64_t>::max());
  }
  return index;
}

// A shard holds exactly what the index claims: an extra tensor could be another model's, a missing
// one a torn download.
void check_shard(const SafetensorsFile& shard, const std::set<std::string>& claimed,
                 const fs::path& index) {
  for (const TensorEntry& entry : shard.tensors())
    if (!claimed.contains(entry.name))
      fail(ErrorCode::BadInput, "{}: tensor {} is not listed for this file in {}",
           shard.file().path().string(), escaped(entry.name), index.string());
  for (const std::string& tensor : claimed)
    if (!shard.find(tensor))
      fail(ErrorCode::BadInput, "{}: no tensor {}, which {} places here",
           shard.file().path().string(), escaped(tensor), index.string());
}

std::vector<SafetensorsFile> open_weights(const fs::path& folder) {
  std::vector<SafetensorsFile> files;
  if (const auto single = confined_path(folder, kSingle, folder.string())) {
    files.emplace_back(*single);
    return files;
  }
  const auto index_path = confined_path(folder, kIndex, folder.string());
  if (!index_path)
    fail(ErrorCode::BadInput, "{}: neither {} nor {}{}", folder.string(), kSingle, kIndex,
         other_weights(folder));
  const Index index = read_index(*index_path);
  int64_t bytes = 0;
  for (const auto& [file, claimed] : index.shards) {
    const auto path = confined_path(folder, file, index_path->string());
    if (!path)
      fail(ErrorCode::BadInput, "{}: shard {} is missing from the folder", index_path->string(),
           escaped(file));
    files.emplace_back(*path);
    check_shard(files.back(), claimed, *index_path);
    for (const TensorEntry& entry : files.back().tensors()) bytes += entry.bytes;
  }
  if (index.total_size && *index.total_size != bytes)
    fail(ErrorCode::BadInput, "{}: total_size is {}, the shards hold {} bytes of tensors",
         index_path->string(), *index.total_size, bytes);
  return files;
}

}  // namespace

ModelFolder::ModelFolder(const fs::path& folder) : path_(folder) {
  const fs::file_type type = fs::status(folder).type();
  if (type == fs::file_type::not_found)
    fail(ErrorCode::BadInput, "{}: no such folder", folder.string());
  if (type != fs::file_type::directory)
    fail(ErrorCode::BadInput,
         "{}: not a folder; a model is a folder with config.json and model.safetensors{}",
         folder.string(),
         folder.extension() == ".gguf" ? " (lema convert makes one of a GGUF file)" : "");
  const auto config = confined_path(folder, "config.json", folder.string());
  if (!config)
    fail(ErrorCode::BadInput, "{}: no config.json{}", folder.string(), other_weights(folder));
  config_json_ = parse_json(read_text(*config, JsonLimits{}.max_bytes), config->string());
  config_ = parse_model_config(config_json_, config->string());
  files_ = open_weights(folder);
  for (size_t i = 0; i < files_.size(); ++i)
    for (const TensorEntry& entry : files_[i].tensors())
      tensors_.emplace(entry.name, StoredTensor{i, entry});
}

const StoredTensor* ModelFolder::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

std::string ModelFolder::place(const StoredTensor& tensor) const {
  return fmt::format("{}: tensor {}", files_[tensor.file].file().path().string(),
                     escaped(tensor.entry.name));
}

std::optional<Value> optional_json(const fs::path& folder, const std::string& file_name) {
  const auto path = confined_path(folder, file_name, folder.string());
  if (!path) return std::nullopt;
  return parse_json(read_text(*path, kTokenizerJsonLimits.max_bytes), path->string(),
                    kTokenizerJsonLimits);
}

std::vector<int64_t> ModelFolder::stop_ids() const {
  std::vector<int64_t> ids;
  const auto add = [&](int64_t id) {
    if (id >= 0 && id < config_.V && std::find(ids.begin(), ids.end(), id) == ids.end())
      ids.push_back(id);
  };
  if (const auto generation = optional_json(path_, "generation_config.json")) {
    const JsonFields fields(*generation, (path_ / "generation_config.json").string());
    if (const Value* eos = fields.find("eos_token_id")) {
      const Value::Array one{*eos};
      for (const Value& id : eos->is_array() ? eos->as_array() : one) {
        if (!id.is_int()) fields.wrong("eos_token_id", id, "integer or list of integers");
        add(id.as_int());
      }
    }
  }
  for (const int64_t id : config_.eos_ids) add(id);
  return ids;
}

}  // namespace lema
