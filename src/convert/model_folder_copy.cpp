// Paths, order and side files of a Hugging Face folder that is written from another one.
#include "convert/model_folder_copy.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/folder.h"
#include "core/log.h"
#include "data/model_text.h"
#include "formats/confined_path.h"
#include "formats/folder_reader.h"
#include "formats/json.h"
#include "formats/peft_adapter.h"

namespace lema {
namespace {

// What transformers looks for beside weights and config.json, and the licence that goes with a
// copy.
constexpr std::array kSideFiles = {"generation_config.json",
                                   "tokenizer.json",
                                   "tokenizer_config.json",
                                   "special_tokens_map.json",
                                   "added_tokens.json",
                                   "vocab.json",
                                   "merges.txt",
                                   "tokenizer.model",
                                   "tekken.json",
                                   "chat_template.jinja",
                                   "chat_template.json",
                                   "LICENSE",
                                   "LICENSE.txt",
                                   "LICENSE.md",
                                   "NOTICE"};
constexpr const char* kTemplateFolder = "additional_chat_templates";
constexpr int64_t kMaxSideFileBytes = int64_t{256} << 20;

void copy_file(const ModelFolder& folder, const std::string& name, const fs::path& to) {
  if (const auto path = confined_path(folder.path(), name, folder.path().string()))
    write_new_file(to / name, read_text(*path, kMaxSideFileBytes));
}

// A JSON object's text by members of its top level. The text has been parsed before, so it is well
// formed.
class MemberScanner {
 public:
  explicit MemberScanner(const std::string& text) : text_(text) {}

  // First byte and length of the value of the string member `key`, quotes included; length 0 when
  // there is none.
  std::pair<size_t, size_t> string_member(std::string_view key) {
    int depth = 0;
    for (size_t i = 0; i < text_.size(); ++i) {
      const char c = text_[i];
      if (c == '{' || c == '[') ++depth;
      if (c == '}' || c == ']') --depth;
      if (c != '"') continue;
      const size_t end = string_end(i);
      const size_t colon = text_.find_first_not_of(" \t\r\n", end);
      const bool is_key = depth == 1 && colon < text_.size() && text_[colon] == ':';
      if (is_key && text_.substr(i + 1, end - i - 2) == key) {
        const size_t value = text_.find_first_not_of(" \t\r\n", colon + 1);
        if (text_[value] != '"') return {value, 0};
        return {value, string_end(value) - value};
      }
      i = end - 1;
    }
    return {0, 0};
  }

 private:
  // One past the closing quote of the string that opens at i.
  size_t string_end(size_t i) const {
    for (++i; text_[i] != '"'; ++i)
      if (text_[i] == '\\') ++i;
    return i + 1;
  }

  const std::string& text_;
};

// Readers of the merged folder end a reply on eos_token_id of generation_config.json; the base's
// does not name the token that another template ends its turns with.
void write_stop_ids(const std::vector<int64_t>& ids, const ModelFolder& folder,
                    const fs::path& to) {
  const std::vector<int64_t>& known = folder.stop_ids();
  const auto is_known = [&](int64_t id) {
    return std::find(known.begin(), known.end(), id) != known.end();
  };
  if (std::all_of(ids.begin(), ids.end(), is_known)) return;
  const fs::path path = to / kSideFiles[0];
  Value config = fs::exists(path) ? parse_json(read_text(path, kMaxSideFileBytes), path.string())
                                  : Value(Value::Object{});
  config.set("eos_token_id", Value::Array(ids.begin(), ids.end()));
  write_file(path, dump_json(config, 2) + "\n");
  log::info("{}: eos_token_id {}", kSideFiles[0], fmt::join(ids, ", "));
}

}  // namespace

fs::path output_folder(const fs::path& output, std::span<const fs::path> inputs) {
  fs::path path = output.lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  if (path.empty()) fail(ErrorCode::Usage, "the output folder has no name");
  if (fs::exists(fs::symlink_status(path)))
    fail(ErrorCode::Usage, "{}: already exists; name a new folder or remove it", path.string());
  for (const fs::path& input : inputs) check_outside(path, input);
  return path;
}

std::vector<const FieldSpec*> model_file_order(const ModelSpec& spec) {
  std::vector<const FieldSpec*> order = {&spec.embed};
  for (const FieldSpec& field : spec.positions) order.push_back(&field);
  for (const auto& block : spec.blocks)
    for (const PieceSpec& piece : block)
      for (const FieldSpec& field : piece.fields) order.push_back(&field);
  for (const FieldSpec& field : spec.final_norm) order.push_back(&field);
  if (spec.head.tensor != spec.embed.tensor) order.push_back(&spec.head);
  return order;
}

std::vector<WeightSource> folder_weights(const ModelFolder& folder, const ModelSpec& spec) {
  std::vector<WeightSource> weights;
  for (const FieldSpec* field : model_file_order(spec)) {
    const StoredTensor* tensor = folder.find(field->tensor);
    check(tensor != nullptr, "{}: no tensor {}", folder.path().string(), field->tensor);
    const TensorEntry& entry = tensor->entry;
    const File& file = folder.files()[tensor->file].file();
    const int64_t row_bytes = entry.bytes / entry.shape[0];
    weights.push_back(
        {entry.name, folder.place(*tensor), entry.dtype, entry.shape,
         [&file, row_bytes, offset = entry.offset](int64_t begin, int64_t end, std::byte* out) {
           file.read_at(out, (end - begin) * row_bytes, offset + begin * row_bytes);
         }});
  }
  return weights;
}

std::vector<TensorSpec> output_tensors(std::span<const WeightSource> weights,
                                       std::optional<DType> dtype) {
  std::vector<TensorSpec> tensors;
  for (const WeightSource& weight : weights)
    tensors.push_back({weight.name, dtype.value_or(weight.dtype), weight.shape});
  return tensors;
}

void copy_side_files(const ModelFolder& folder, const fs::path& to, std::optional<DType> dtype) {
  const fs::path config = *confined_path(folder.path(), "config.json", folder.path().string());
  const std::string text = read_text(config, JsonLimits{}.max_bytes);
  write_new_file(to / "config.json",
                 dtype ? config_with_dtype(text, *dtype, config.string()) : text);
  for (const char* name : kSideFiles) copy_file(folder, name, to);
  for (const std::string& name : FolderReader(folder.path()).names("", ".tiktoken"))
    copy_file(folder, name, to);

  const fs::path templates = folder.path() / kTemplateFolder;
  if (fs::symlink_status(templates).type() != fs::file_type::directory) return;
  create_folders(to / kTemplateFolder);
  for (const auto& entry : fs::directory_iterator(templates))
    if (entry.path().extension() == ".jinja")
      copy_file(folder, fmt::format("{}/{}", kTemplateFolder, entry.path().filename().string()),
                to);
}

void take_template(const fs::path& adapter, const ModelFolder& folder, const fs::path& to) {
  const auto path = adapter_template(adapter);
  if (!path) return;
  write_stop_ids(load_model_text(folder, path->string()).stop_ids(), folder, to);
  remove_tree(to / kTemplateFolder);
  write_file(to / kAdapterTemplate, read_text(*path, kMaxSideFileBytes));
  log::info("{}: the merged model's chat template", path->string());
}

std::string config_with_dtype(const std::string& text, DType dtype, const std::string& source) {
  std::string out = text;
  Value expected = parse_json(text, source);
  for (const char* key : {"dtype", "torch_dtype"}) {
    const auto [begin, bytes] = MemberScanner(out).string_member(key);
    if (bytes == 0) continue;
    out.replace(begin, bytes, fmt::format("\"{}\"", torch_name(dtype)));
    expected.set(key, torch_name(dtype));
  }
  check(parse_json(out, source) == expected, "{}: its dtype was not replaced cleanly", source);
  return out;
}

std::string_view torch_name(DType dtype) {
  return dtype == DType::BF16 ? "bfloat16" : dtype == DType::F16 ? "float16" : "float32";
}

}  // namespace lema
