// The two kinds of source, and the one way out.
#include "convert/convert.h"

#include <algorithm>
#include <unordered_map>

#include "convert/model_folder_copy.h"
#include "core/error.h"
#include "core/folder.h"
#include "core/hash.h"
#include "formats/gguf_import.h"
#include "formats/json.h"
#include "layout/piece_table.h"

namespace lema {
namespace {

constexpr const char* kSourceKey = "lema_source";
constexpr const char* kDigestKey = "lema_source_sha256";

// What a run reads and writes beside the weights.
struct Job {
  fs::path output;
  std::vector<WeightSource> weights;
  std::vector<TensorSpec> tensors;
  std::function<void(const fs::path& to)> write_side_files;
};

Metadata fresh_metadata(const fs::path& source, std::span<const fs::path> files,
                        const ReportProgress& report) {
  int64_t done = 0, total = 0;
  for (const fs::path& file : files) total += File::open(file).size();
  Value::Object digests;
  for (const fs::path& file : files)
    digests.emplace_back(file.filename().string(), sha256_file(file, [&](int64_t bytes) {
                           report({"hashing", done += bytes, total});
                         }));
  return {{"format", "pt"},
          {"lema_format", kModelFileVersion},
          {kSourceKey, fs::canonical(source).filename().string()},
          {kDigestKey, dump_json(Value(std::move(digests)))}};
}

// The entries of a model file of ours that is copied without rounding: it is what they describe.
std::optional<Metadata> kept_metadata(const ModelFolder& folder, const Job& job) {
  const Metadata& metadata = folder.files()[0].metadata();
  const auto has = [&](const char* key, const char* value) {
    return std::any_of(metadata.begin(), metadata.end(), [&](const auto& item) {
      return item.first == key && (value == nullptr || item.second == value);
    });
  };
  const bool ours = folder.files().size() == 1 && has("lema_format", kModelFileVersion) &&
                    has(kSourceKey, nullptr) && has(kDigestKey, nullptr);
  for (size_t i = 0; i < job.weights.size(); ++i)
    if (job.weights[i].dtype != job.tensors[i].dtype) return std::nullopt;
  return ours ? std::optional(metadata) : std::nullopt;
}

ConvertResult write_model(const Job& job, const Metadata& metadata, const ReportProgress& report) {
  StagedFolder staged(job.output);
  job.write_side_files(staged.path());
  ShardedWriter writer(staged.path(), job.tensors, metadata, 0);
  WeightCopier copier(writer, report);
  for (const WeightSource& weight : job.weights) copier.copy(weight);
  writer.finish();
  staged.commit();
  return {std::ssize(job.tensors), writer.total_bytes()};
}

int64_t total_bytes(const std::vector<TensorSpec>& tensors) {
  int64_t bytes = 0;
  for (const TensorSpec& tensor : tensors)
    bytes += tensor.shape.elements() * element_bytes(tensor.dtype);
  return bytes;
}

ConvertResult convert_folder(const ConvertOptions& options, const fs::path& output,
                             const ReportProgress& report) {
  const ModelFolder folder(options.source);
  const PieceTable table = make_piece_table(folder);
  Job job{output, folder_weights(folder, table.spec), {}, [&](const fs::path& to) {
            copy_side_files(folder, to, options.dtype);
          }};
  job.tensors = output_tensors(job.weights, options.dtype);
  check_free_space(output, total_bytes(job.tensors));
  std::optional<Metadata> metadata = kept_metadata(folder, job);
  if (!metadata) {
    std::vector<fs::path> files;
    for (const SafetensorsFile& file : folder.files()) files.push_back(file.file().path());
    metadata = fresh_metadata(options.source, files, report);
  }
  return write_model(job, *metadata, report);
}

// Float types stay; the values of block types are products that only F32 holds.
DType lossless_dtype(const GgmlType& type) {
  return type.name == "BF16" ? DType::BF16 : type.name == "F16" ? DType::F16 : DType::F32;
}

// The model's weights in the order of its table, every tensor claimed once and of the shape that
// the config asks for.
std::vector<WeightSource> gguf_weights(const GgufFile& file, const GgufModel& model,
                                       const ModelSpec& spec) {
  std::unordered_map<std::string, const GgufTensorMap*> by_name;
  for (const GgufTensorMap& tensor : model.tensors) by_name.emplace(tensor.name, &tensor);
  std::vector<WeightSource> weights;
  for (const FieldSpec* field : model_file_order(spec)) {
    const auto found = by_name.find(field->tensor);
    if (found == by_name.end())
      fail(ErrorCode::BadInput, "{}: no tensor that becomes {}", file.path().string(),
           escaped(field->tensor));
    const GgufTensorMap& tensor = *found->second;
    const std::string place = file.place(*tensor.source);
    if (!(tensor.shape == field->shape))
      fail(ErrorCode::BadInput, "{} is {}; the metadata asks for {}", place, tensor.shape.str(),
           field->shape.str());
    weights.push_back({tensor.name, place, DType::F32, tensor.shape,
                       [&file, &tensor](int64_t begin, int64_t end, std::byte* out) {
                         read_tensor_rows(file, tensor, begin, end, reinterpret_cast<float*>(out));
                       }});
    by_name.erase(found);
  }
  if (!by_name.empty()) {
    const GgufTensorMap& tensor = *std::min_element(by_name.begin(), by_name.end())->second;
    fail(ErrorCode::BadInput, "{} belongs to no weight of the model that the metadata describes",
         file.place(*tensor.source));
  }
  return weights;
}

void write_side_files(const GgufModel& model, DType dtype, const fs::path& to) {
  Value config = model.config_json;
  config.set("torch_dtype", torch_name(dtype));
  const auto write = [&](const char* name, const Value& value) {
    write_new_file(to / name, dump_json(value, 2) + "\n");
  };
  write("config.json", config);
  write("generation_config.json", model.generation_config);
  write("tokenizer.json", model.tokenizer_json);
  write("tokenizer_config.json", model.tokenizer_config);
  if (!model.chat_template.empty()) write_new_file(to / "chat_template.jinja", model.chat_template);
  if (!model.named_templates.empty()) create_folders(to / "additional_chat_templates");
  for (const auto& [name, source] : model.named_templates)
    write_new_file(to / "additional_chat_templates" / (name + ".jinja"), source);
}

ConvertResult convert_gguf(const ConvertOptions& options, const fs::path& output,
                           const ReportProgress& report) {
  const GgufFile file(options.source);
  const GgufModel model = import_gguf(file);
  const ModelConfig config = parse_model_config(model.config_json, options.source.string());
  const auto has = [&](const char* name) {
    return std::any_of(model.tensors.begin(), model.tensors.end(),
                       [&](const auto& t) { return t.name == name; });
  };
  const ModelSpec spec = model_spec(config, has);
  Job job{output, gguf_weights(file, model, spec), {}, [&](const fs::path& to) {
            write_side_files(model, options.dtype.value_or(model.dtype), to);
          }};
  for (const WeightSource& weight : job.weights) {
    const auto tensor = std::find_if(model.tensors.begin(), model.tensors.end(),
                                     [&](const GgufTensorMap& t) { return t.name == weight.name; });
    job.tensors.push_back(
        {weight.name, options.dtype.value_or(lossless_dtype(tensor->source->type)), weight.shape});
  }
  check_free_space(output, total_bytes(job.tensors));
  const fs::path files[] = {options.source};
  return write_model(job, fresh_metadata(options.source, files, report), report);
}

}  // namespace

ConvertResult convert(const ConvertOptions& options, const ReportProgress& report) {
  const fs::path inputs[] = {options.source};
  const fs::path output = output_folder(options.output, inputs);
  return fs::is_directory(options.source) ? convert_folder(options, output, report)
                                          : convert_gguf(options, output, report);
}

}  // namespace lema
