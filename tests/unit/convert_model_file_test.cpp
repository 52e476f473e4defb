// lema convert: order, alignment and bytes of the model file, what is copied beside it,
// idempotence, and what is refused without leaving anything behind.
#include <cmath>
#include <limits>

#include "convert/convert.h"
#include "convert/model_folder_copy.h"
#include "core/hash.h"
#include "layout/piece_table.h"
#include "support/scrambled_model.h"
#include "support/temp_folder.h"

using namespace lema;
using namespace lema::test;

namespace {

const ReportProgress kQuiet = [](const Progress&) {};

ConvertResult convert_quietly(const fs::path& source, const fs::path& output,
                              std::optional<DType> dtype = {}) {
  return convert({source, output, dtype}, kQuiet);
}

std::string bytes_of(const fs::path& path) { return read_text(path, int64_t{1} << 30); }

// Names of everything in a folder.
std::vector<std::string> listing(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::string metadata_of(const fs::path& folder, std::string_view key) {
  const SafetensorsFile file(folder / "model.safetensors");
  for (const auto& [name, text] : file.metadata())
    if (name == key) return text;
  return "absent";
}

}  // namespace

TEST_CASE("tensors lie in execution order, unchanged, from a page boundary") {
  const TempFolder folder("convert_order");
  std::vector<ScrambledModel> models;
  for (const int shards : {1, 3}) {
    for (const bool tied : {false, true})
      models.push_back({.config = small_llama(tied), .shards = shards});
    models.push_back({.config = small_llama(false, true), .dtype = DType::BF16, .shards = shards});
    models.push_back({.config = small_like("qwen2", "Qwen2ForCausalLM"), .shards = shards});
    models.push_back({.config = small_like("qwen3", "Qwen3ForCausalLM"), .shards = shards});
    models.push_back({.config = small_like("phi3", "Phi3ForCausalLM"), .shards = shards});
    models.push_back({.config = small_gpt2(), .shards = shards});
    models.push_back({.config = small_gpt2(), .dtype = DType::F16, .prefix = "", .shards = shards});
  }
  for (size_t i = 0; i < models.size(); ++i) {
    CAPTURE(i);
    const fs::path source = folder.path() / fmt::format("in{}", i),
                   output = folder.path() / fmt::format("out{}", i);
    write_scrambled(source, models[i]);
    const ConvertResult result = convert_quietly(source, output);
    const ModelFolder converted(output);
    REQUIRE(converted.files().size() == 1);
    const SafetensorsFile& file = converted.files()[0];
    CHECK(file.data_offset() % 4096 == 0);
    const std::vector<FieldSpec> order = fields_of(spec_of(models[i]));
    REQUIRE(file.tensors().size() == order.size());
    CHECK(result.tensors == std::ssize(order));
    for (size_t t = 0; t < order.size(); ++t) CHECK(file.tensors()[t].name == order[t].tensor);
    CHECK(tensors_of(converted) == tensors_of(ModelFolder(source)));
    CHECK(bytes_of(source / "config.json") == bytes_of(output / "config.json"));
    // Every piece whose tensors are whole 16-byte runs is one extent, which is what the order is
    // for.
    const PieceTable table = make_piece_table(converted);
    if (models[i].dtype == DType::F32)
      for (const Unit& unit : table.blocks)
        for (const Piece& piece : unit.pieces) CHECK(piece.extents.size() == 1);
  }
}

TEST_CASE("mask buffers, rotary caches and the copy of a tied head are left out") {
  const TempFolder folder("convert_ignorable");
  ScrambledModel gpt2{.config = small_gpt2(), .prefix = ""};
  gpt2.extra = {{"h.0.attn.bias", DType::F32, {1, 1, 16, 16}},
                {"h.1.attn.masked_bias", DType::F32, {1}}};
  write_scrambled(folder.path() / "gpt2", gpt2);
  convert_quietly(folder.path() / "gpt2", folder.path() / "gpt2-out");
  CHECK(ModelFolder(folder.path() / "gpt2-out").find("h.0.attn.bias") == nullptr);
  ScrambledModel tied{.config = small_llama(true)};
  tied.extra = {{"lm_head.weight", DType::F32, {11, 8}},
                {"model.layers.0.self_attn.rotary_emb.inv_freq", DType::F32, {1}}};
  tied.edit = [plain = tied](const std::string& tensor, std::vector<float>& values) {
    if (tensor == "lm_head.weight")
      values = values_of(plain, "model.embed_tokens.weight", std::ssize(values));
  };
  write_scrambled(folder.path() / "tied", tied);
  CHECK(convert_quietly(folder.path() / "tied", folder.path() / "tied-out").tensors == 20);
  CHECK(ModelFolder(folder.path() / "tied-out").find("lm_head.weight") == nullptr);
}

TEST_CASE("a head that is no copy of the embedding is kept, whatever config.json says") {
  const TempFolder folder("convert_own_head");
  ScrambledModel llama{.config = small_llama(true), .shards = 2}, gpt2{.config = small_gpt2()};
  llama.extra = gpt2.extra = {{"lm_head.weight", DType::F32, {11, 8}}};
  // Equal but for the last number.
  gpt2.edit = [plain = gpt2](const std::string& tensor, std::vector<float>& values) {
    if (tensor != "lm_head.weight") return;
    values = values_of(plain, "transformer.wte.weight", std::ssize(values));
    values.back() += 1;
  };
  for (const ScrambledModel& model : {llama, gpt2}) {
    const fs::path source = folder.path() / model.config.find("model_type")->as_string(),
                   output = source.string() + "-out";
    write_scrambled(source, model);
    convert_quietly(source, output);
    const ModelFolder converted(output);
    CHECK(tensors_of(converted) == tensors_of(ModelFolder(source)));
    CHECK(make_piece_table(converted).spec.head.tensor == "lm_head.weight");
    CHECK(bytes_of(source / "config.json") == bytes_of(output / "config.json"));
  }
}

TEST_CASE("the metadata names source and digests, and survives a second conversion") {
  const TempFolder folder("convert_twice");
  write_scrambled(folder.path() / "base", {.config = small_llama(false), .shards = 2});
  convert_quietly(folder.path() / "base", folder.path() / "first");
  CHECK(metadata_of(folder.path() / "first", "format") == "pt");
  CHECK(metadata_of(folder.path() / "first", "lema_format") == "1");
  CHECK(metadata_of(folder.path() / "first", "lema_source") == "base");
  const Value digests =
      parse_json(metadata_of(folder.path() / "first", "lema_source_sha256"), "metadata");
  REQUIRE(digests.as_object().size() == 2);
  for (const auto& [name, digest] : digests.as_object())
    CHECK(digest.as_string() == sha256(bytes_of(folder.path() / "base" / name)));

  const std::string first = bytes_of(folder.path() / "first" / "model.safetensors");
  convert_quietly(folder.path() / "base" / "", folder.path() / "again");
  CHECK(first == bytes_of(folder.path() / "again" / "model.safetensors"));
  convert_quietly(folder.path() / "first", folder.path() / "second");
  CHECK(first == bytes_of(folder.path() / "second" / "model.safetensors"));
  convert_quietly(folder.path() / "first", folder.path() / "same-type", DType::F32);
  CHECK(first == bytes_of(folder.path() / "same-type" / "model.safetensors"));

  // Rounded numbers are those of another file: what was read is named.
  convert_quietly(folder.path() / "first", folder.path() / "half", DType::BF16);
  CHECK(metadata_of(folder.path() / "half", "lema_source") == "first");
}

TEST_CASE("numbers round to nearest even, and config.json says the type") {
  const TempFolder folder("convert_dtype");
  const std::vector<float> exact = {1 + 0x1p-8f, 1 + 0x3p-8f, 1 + 0x1p-11f, 65519,
                                    -0x1p-25f,   0x1.8p-24f,  -0.0f,        3e-40f};
  ScrambledModel model{.config = small_llama(true)};
  model.edit = [&](const std::string& tensor, std::vector<float>& values) {
    if (tensor == "model.norm.weight") values = exact;
  };
  write_scrambled(folder.path() / "base", model);
  const auto norm = [&](const char* output, DType dtype) {
    convert_quietly(folder.path() / "base", folder.path() / output, dtype);
    return floats_of(tensors_of(ModelFolder(folder.path() / output)).at("model.norm.weight"),
                     dtype);
  };
  const std::vector<float> bf = norm("bf16", DType::BF16), half = norm("f16", DType::F16);
  CHECK(bf == std::vector<float>{1, 1 + 0x1p-6f, 1, 65536, -0x1p-25f, 0x1.8p-24f, 0,
                                 to_f32(to_bf16(3e-40f))});
  CHECK(half == std::vector<float>{1 + 0x1p-8f, 1 + 0x3p-8f, 1, 65504, 0, 0x1p-23f, 0, 0});
  CHECK(std::signbit(half[4]));
  CHECK(std::signbit(bf[6]));

  std::string config = bytes_of(folder.path() / "base" / "config.json");
  config.replace(config.find("float32"), 7, "bfloat16");
  CHECK(config == bytes_of(folder.path() / "bf16" / "config.json"));
  // Widening loses nothing.
  convert_quietly(folder.path() / "bf16", folder.path() / "wide", DType::F32);
  CHECK(bf == floats_of(tensors_of(ModelFolder(folder.path() / "wide")).at("model.norm.weight"),
                        DType::F32));
}

TEST_CASE("only the top-level dtype of config.json is edited") {
  const std::string text =
      "{\"a\": {\"dtype\": \"float32\"}, \"b\": [\"dtype\", \"\\\"torch_dtype\\\": \"],\n"
      "\t\"torch_dtype\" :\t\"float32\", \"dtype\": null, \"eps\": 1e-06}";
  std::string expected = text;
  expected.replace(expected.rfind("\"float32\""), 9, "\"float16\"");
  CHECK(config_with_dtype(text, DType::F16, "config.json") == expected);
  CHECK(config_with_dtype("{}", DType::F16, "config.json") == "{}");
}

TEST_CASE("side files are copied byte for byte, others are not") {
  const TempFolder folder("convert_side");
  write_scrambled(folder.path() / "base", {.config = small_llama(false)});
  const std::vector<std::string> names = {"generation_config.json", "tokenizer.json",
                                          "tokenizer_config.json", "chat_template.jinja",
                                          "additional_chat_templates/tool_use.jinja"};
  for (const std::string& name : names) folder.file("base/" + name, "bytes of " + name + "\r\n");
  folder.file("base/training_args.bin", "x");
  convert_quietly(folder.path() / "base", folder.path() / "out");
  for (const std::string& name : names)
    CHECK(bytes_of(folder.path() / "out" / name) == bytes_of(folder.path() / "base" / name));
  CHECK(listing(folder.path() / "out") ==
        std::vector<std::string>{"additional_chat_templates", "chat_template.jinja", "config.json",
                                 "generation_config.json", "model.safetensors", "tokenizer.json",
                                 "tokenizer_config.json"});
}

TEST_CASE("bad numbers are refused by tensor and element") {
  const TempFolder folder("convert_numbers");
  const float infinity = std::numeric_limits<float>::infinity(),
              nan = std::numeric_limits<float>::quiet_NaN();
  const char* name = "model.layers.1.mlp.up_proj.weight";  // (12, 8)
  const auto refused = [&](float value, DType stored, std::optional<DType> dtype,
                           const char* part) {
    ScrambledModel model{.config = small_llama(false), .dtype = stored};
    model.edit = [&](const std::string& tensor, std::vector<float>& values) {
      if (tensor == name) values[8 * 9 + 3] = value;
    };
    write_scrambled(folder.path() / "base", model);
    const std::string message = message_of(ErrorCode::BadInput, [&] {
      convert_quietly(folder.path() / "base", folder.path() / "out", dtype);
    });
    INFO(message);
    CHECK(contains(message, std::string("tensor ") + name + ": element [9, 3] is "));
    CHECK(contains(message, part));
    CHECK(listing(folder.path()) == std::vector<std::string>{"base"});
    fs::remove_all(folder.path() / "base");
  };
  for (const DType stored : {DType::F32, DType::BF16, DType::F16}) {
    refused(nan, stored, {}, "nan");
    refused(-infinity, stored, {}, "-inf");
    refused(nan, stored, DType::F32, "nan");
  }
  refused(65520, DType::F32, DType::F16, "65520, beyond the range of F16");
  refused(-1e20f, DType::BF16, DType::F16, "beyond the range of F16");
  refused(3.4e38f, DType::F32, DType::BF16, "beyond the range of BF16");
}

TEST_CASE("a bad number is found wherever it lies in a chunk") {
  for (const DType dtype : {DType::F32, DType::BF16, DType::F16})
    for (const int64_t n : {1, 4095, 4096, 4097, 10000}) {
      std::vector<float> values(static_cast<size_t>(n), 1.5f);
      std::string bytes = rounded_bytes(values, dtype);
      CHECK(find_nonfinite(bytes.data(), dtype, n) == -1);
      for (const int64_t at : {int64_t{0}, n / 2, n - 1}) {
        values.assign(static_cast<size_t>(n), 1.5f);
        values[static_cast<size_t>(at)] = HUGE_VALF;
        bytes = rounded_bytes(values, dtype);
        CHECK(find_nonfinite(bytes.data(), dtype, n) == at);
      }
    }
}

TEST_CASE("outputs that exist or lie inside the source are refused") {
  const TempFolder folder("convert_output");
  write_scrambled(folder.path() / "base", {.config = small_llama(false)});
  folder.file("taken", "x");
  fs::create_directory_symlink(folder.path() / "base", folder.path() / "link");
  fs::create_symlink("nowhere", folder.path() / "dangling");
  const auto refused = [&](const fs::path& output, const char* part) {
    const std::string message =
        message_of(ErrorCode::Usage, [&] { convert_quietly(folder.path() / "base", output); });
    INFO(message);
    CHECK(contains(message, part));
  };
  refused(folder.path() / "base", "already exists");
  refused(folder.path() / "base" / "", "already exists");
  refused(folder.path() / "taken", "already exists");
  refused(folder.path() / "dangling", "already exists");
  refused(folder.path() / "base" / "out", "lies inside");
  refused(folder.path() / "link" / "deep" / "out", "lies inside");
  refused(folder.path() / "x" / ".." / "base" / "out", "lies inside");
  CHECK(listing(folder.path() / "base").size() == 2);
  // Beside it, in a folder that does not exist yet, with a name that begins alike.
  convert_quietly(folder.path() / "base", folder.path() / "base-out" / "deep" / "");
  CHECK(fs::exists(folder.path() / "base-out" / "deep" / "model.safetensors"));
}

TEST_CASE("a stop in the middle leaves nothing behind") {
  const TempFolder folder("convert_stop");
  write_scrambled(folder.path() / "base", {.config = small_llama(false)});
  for (const char* stage : {"hashing", "writing"}) {
    int calls = 0;
    const ReportProgress stop = [&](const Progress& progress) {
      CHECK(progress.done <= progress.total);
      if (progress.stage == stage && ++calls == 1) fail(ErrorCode::InterruptedEmpty, "stopped");
    };
    message_of(ErrorCode::InterruptedEmpty, [&] {
      convert({folder.path() / "base", folder.path() / "out", {}}, stop);
    });
    CHECK(listing(folder.path()) == std::vector<std::string>{"base"});
  }
}

TEST_CASE("shapes, types and left-over tensors are refused before anything is written") {
  const TempFolder folder("convert_shapes");
  ScrambledModel model{.config = small_llama(false)};
  model.extra = {{"model.layers.2.mlp.up_proj.weight", DType::F32, {12, 8}}};
  write_scrambled(folder.path() / "extra", model);
  CHECK_BAD_INPUT(convert_quietly(folder.path() / "extra", folder.path() / "out"),
                  "model.layers.2.mlp.up_proj.weight");
  model = {.config = small_llama(false)};
  write_scrambled(folder.path() / "shape", model);
  model.config.set("intermediate_size", 16);
  folder.file("shape/config.json", dump_json(model.config));
  CHECK_BAD_INPUT(convert_quietly(folder.path() / "shape", folder.path() / "out"),
                  "config.json needs [16, 8]");
  CHECK_BAD_INPUT(convert_quietly(folder.path() / "absent", folder.path() / "out"),
                  "absent: no such file");
  CHECK(!fs::exists(folder.path() / "out"));
}
