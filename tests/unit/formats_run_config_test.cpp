// Run configs: every wrong one is one Usage line with its place; JSON and TOML mean the same; what
// is printed reads back equal; the committed schema and example configs agree with the code.
#include <unistd.h>

#include <cstdlib>
#include <regex>

#include "core/error.h"
#include "core/file.h"
#include "formats/json.h"
#include "formats/run_config.h"
#include "support/catch.h"

using namespace lema;

namespace {

// ctest says where the sources are.
const fs::path kConfigs = fs::path(std::getenv("LEMA_SOURCE")) / "configs";

// A config file of this test's own, removed at the end.
struct ConfigFile {
  ConfigFile(std::string_view extension, std::string_view text)
      : path(fs::temp_directory_path() / fmt::format("lema_run_{}{}", ::getpid(), extension)) {
    write_file(path, text);
  }
  ~ConfigFile() { fs::remove(path); }
  fs::path path;
};

RunConfig load(std::string_view extension, std::string_view text,
               const std::vector<std::string>& settings = {}) {
  const ConfigFile file(extension, text);
  return load_run_config(file.path.string(), settings);
}

// The message less the folder and the unique part of the file's name: "run.json:3: ...".
std::string error_of(std::string_view extension, std::string_view text,
                     const std::vector<std::string>& settings = {}) {
  try {
    load(extension, text, settings);
  } catch (const Error& e) {
    std::string message = e.what();
    CHECK(e.code() == ErrorCode::Usage);
    const std::string path =
        (fs::temp_directory_path() / fmt::format("lema_run_{}", ::getpid())).string();
    for (size_t at = message.find(path); at != std::string::npos; at = message.find(path))
      message.replace(at, path.size(), "run");
    return message;
  }
  return "accepted";
}

constexpr std::string_view kMinimal =
    R"({"model": "m", "output_dir": "o", "data": {"train": "t"}})";

// A valid config with this member on line 5.
std::string with(std::string_view member) {
  return "{\n\"model\": \"m\",\n\"output_dir\": \"o\",\n\"data\": {\"train\": \"t\"},\n" +
         std::string(member) + "}\n";
}

std::string data_with(std::string_view member) {
  return "{\"model\": \"m\", \"output_dir\": \"o\",\n\"data\": {\"train\": \"t\",\n" +
         std::string(member) + "}}\n";
}

std::string print(const RunConfig& config) { return dump_json(to_value(config), 2); }

}  // namespace

TEST_CASE("wrong configs give one line with file, line, what was found and what is expected") {
  struct Case {
    std::string text, message;
  };
  const std::vector<Case> cases = {
      // Unknown keys, with the nearest one.
      {with("\"modle\": 1"),
       "run.json:5: unknown key \"modle\"; the nearest known key is \"model\""},
      {with("\"lora\": {\"rnak\": 8}"),
       "run.json:5: unknown key \"lora.rnak\"; the nearest known key is \"lora.rank\""},
      {with("\"lr\": 1"), "unknown key \"lr\"; the nearest known key is \"optimizer.lr\""},
      {with("\"train\": {\"lr\": 1}"),
       "unknown key \"train.lr\"; the nearest known key is \"optimizer.lr\""},
      {with("\"train\": {\n\n\"epoch\": 1}"),
       "run.json:7: unknown key \"train.epoch\"; the nearest known key is "
       "\"train.epochs\""},
      {with("\"max_steps\": 1"), "the nearest known key is \"train.max_steps\""},
      {with("\"memory\": {\"gpu_budget\": 1}"),
       "unknown key \"memory.gpu_budget\"; known keys are memory.vram, "},
      {with("\"zzzzzzzz\": 1"),
       "unknown key \"zzzzzzzz\"; known keys are model, output_dir, seed, device, method, compute, "
       "threads, "
       "data.*, lora.*, "},
      {with("\"Seed\": 1"), "the nearest known key is \"seed\""},
      {with("\"\": 1"), "run.json:5: unknown key \"\""},
      {with("\"lora\": {\"\": 1}"), "unknown key \"lora.\""},
      {with("\"lora.rank\": 1"), "run.json:5: key \"lora.rank\": write sections as nested objects"},
      {with("\"a\\u001b[2J\": 1"), "unknown key \"a\\x1b[2J\""},
      {with("\"" + std::string(100000, 'k') + "\": 1"), "unknown key \"kkk"},
      // Wrong types.
      {with("\"seed\": \"x\""), "run.json:5: seed: found \"x\", expected an integer of at least 0"},
      {with("\"seed\": 1.5"), "seed: found 1.5, expected an integer"},
      {with("\"seed\": 2.0"), "seed: found 2.0, expected an integer"},
      {with("\"seed\": true"), "seed: found true, expected an integer"},
      {with("\"seed\": null"), "seed: found null, expected an integer"},
      {with("\"seed\": [1]"), "seed: found array, expected an integer"},
      {with("\"lora\": 16"),
       "run.json:5: lora: found 16, expected an object with the keys of this section"},
      {with("\"lora\": null"), "lora: found null, expected an object"},
      {with("\"device\": 0"), "device: found 0, expected one of auto, cpu, cuda"},
      {with("\"lora\": {\"rank\": \"8\"}"),
       "lora.rank: found \"8\", expected an integer from 1 to 4096"},
      {with("\"lora\": {\"rank\": \"auto\"}"), "lora.rank: found \"auto\", expected an integer"},
      {with("\"lora\": {\"targets\": 1}"),
       "lora.targets: found 1, expected a string or a list of strings"},
      {with("\"lora\": {\"targets\": []}"),
       "lora.targets: found array, expected a string or a list"},
      {with("\"lora\": {\"targets\": [\"q_proj\", 1]}"),
       "lora.targets: found array, expected a string or a list"},
      {with("\"lora\": {\"targets\": \"\"}"),
       "lora.targets: found \"\", expected a string or a list"},
      {with("\"optimizer\": {\"lr\": \"1e-4\"}"),
       "optimizer.lr: found \"1e-4\", expected a number above 0"},
      {with("\"optimizer\": {\"betas\": 0.9}"),
       "optimizer.betas: found 0.9, expected a list of two numbers"},
      {with("\"optimizer\": {\"betas\": [0.9]}"),
       "optimizer.betas: found array, expected a list of two numbers"},
      {with("\"optimizer\": {\"betas\": [0.9, \"x\"]}"),
       "optimizer.betas: found array, expected two numbers"},
      {with("\"checkpoint\": {\"best\": \"yes\"}"),
       "checkpoint.best: found \"yes\", expected true, false or \"auto\""},
      {with("\"memory\": {\"vram\": \"2 gigs\"}"),
       "memory.vram: found \"2 gigs\", expected \"auto\", a number of bytes"},
      {with("\"memory\": {\"vram\": 1.5}"),
       "memory.vram: found 1.5, expected \"auto\", a number of bytes"},
      {with("\"memory\": {\"slots\": \"many\"}"),
       "memory.slots: found \"many\", expected \"auto\" or an integer from 2"},
      {data_with("\"packing\": 1"), "run.json:3: data.packing: found 1, expected true or false"},
      {data_with("\"append_eos\": \"on\""),
       "data.append_eos: found \"on\", expected true, false or \"auto\""},
      {data_with("\"chat_template\": 7"), "data.chat_template: found 7, expected string"},
      {data_with("\"eval\": \"a\\u0000b\""),
       "data.eval: found \"a\\x00b\", expected string without NUL"},
      // Choices and ranges.
      {with("\"device\": \"gpu\""), "device: found \"gpu\", expected one of auto, cpu, cuda"},
      {with("\"method\": \"full\""), "method: found \"full\", expected one of lora"},
      {with("\"compute\": \"fp16\""),
       "compute: found \"fp16\", expected one of auto, f32, bf16, f16"},
      {with("\"seed\": -1"), "seed: found -1, expected an integer of at least 0"},
      {with("\"lora\": {\"rank\": 0}"), "lora.rank: found 0, expected an integer from 1 to 4096"},
      {with("\"lora\": {\"rank\": 4097}"),
       "lora.rank: found 4097, expected an integer from 1 to 4096"},
      {with("\"lora\": {\"alpha\": 0}"),
       "lora.alpha: found 0, expected a number above 0 and at most 1000000000"},
      {with("\"lora\": {\"alpha\": 1e10}"), "lora.alpha: found 10000000000.0, expected"},
      {with("\"lora\": {\"dropout\": 1}"),
       "lora.dropout: found 1, expected a number of at least 0 and below 1"},
      {with("\"lora\": {\"dropout\": -0.1}"),
       "lora.dropout: found -0.1, expected a number of at least 0 and below 1"},
      {with("\"optimizer\": {\"lr\": 0}"),
       "optimizer.lr: found 0, expected a number above 0 and at most 100"},
      {with("\"optimizer\": {\"lr\": -1e-4}"),
       "optimizer.lr: found -0.0001, expected a number above 0"},
      {with("\"optimizer\": {\"lr\": 1e30}"),
       "optimizer.lr: found 1e+30, expected a number above 0"},
      {with("\"optimizer\": {\"betas\": [0.9, 1]}"),
       "optimizer.betas: found array, expected two numbers of at least 0 "
       "and below 1"},
      {with("\"optimizer\": {\"clip\": -1}"),
       "optimizer.clip: found -1, expected a number of at least 0"},
      {with("\"schedule\": {\"name\": \"cosin\"}"),
       "schedule.name: found \"cosin\", expected one of cosine, linear"},
      {with("\"schedule\": {\"min_lr_ratio\": 1.5}"),
       "schedule.min_lr_ratio: found 1.5, expected a number from 0 to 1"},
      {with("\"train\": {\"batch_size\": 0}"),
       "train.batch_size: found 0, expected an integer from 1 to 1048576"},
      {with("\"train\": {\"token_tile\": 0}"),
       "train.token_tile: found 0, expected an integer from 1"},
      {with("\"train\": {\"micro_batch_size\": 0}"),
       "found 0, expected \"auto\" or an integer from 1 to 1048576"},
      {with("\"memory\": {\"vram\": 0}"),
       "memory.vram: found 0, expected \"auto\", a number of bytes"},
      {with("\"memory\": {\"slots\": 1}"),
       "memory.slots: found 1, expected \"auto\" or an integer from 2 to 4096"},
      {with("\"checkpoint\": {\"keep\": 0}"),
       "checkpoint.keep: found 0, expected an integer from 1"},
      {data_with("\"format\": \"json\""),
       "data.format: found \"json\", expected one of auto, text, completion, chat, alpaca, "
       "sharegpt, tokens"},
      {data_with("\"eval\": [\"a\", \"\"]"), "data.eval: found array, expected a string or a list"},
      {data_with("\"eval_fraction\": 1"),
       "data.eval_fraction: found 1, expected a number of at least 0"},
      {data_with("\"map\": [\"a\"]"), "data.map: found"},
      {data_with("\"map\": {\"text\": 1}"),
       "run.json:3: data.map[\"text\"]: found 1, expected string"},
      {data_with("\"bad_rows\": \"drop\""),
       "data.bad_rows: found \"drop\", expected one of error, skip"},
      {data_with("\"max_bad_rows\": -1"), "data.max_bad_rows: found -1, expected an integer"},
      {data_with("\"max_tokens\": 0"),
       "data.max_tokens: found 0, expected an integer from 1 to 16777216"},
      // Settings that contradict each other.
      {with("\"train\": {\"epochs\": 0}"),
       "run.json:5: with train.epochs 0, train.max_steps must be above 0"},
      {with("\"train\": {\"batch_size\": 4,\n\"micro_batch_size\": 8}"),
       "run.json:6: train.micro_batch_size: found 8, expected at most the train.batch_size of 4"},
      // Missing keys.
      {"{}", "run.json: the key \"model\" is required: folder of a Hugging Face model"},
      {R"({"model": "m", "data": {"train": "t"}})", "run.json: the key \"output_dir\" is required"},
      {R"({"model": "m", "output_dir": "o"})", "run.json: the key \"data.train\" is required"},
      {R"({"model": "m", "output_dir": "o", "data": {}})",
       "run.json: the key \"data.train\" is required"},
      {R"({"model": "", "output_dir": "o", "data": {"train": "t"}})",
       "run.json:1: model: found \"\", expected string "
       "that is not empty"},
      // Not a config at all.
      {"", "run.json:1:1: syntax error"},
      {"[]", "run.json:1: found array, expected an object"},
      {"{\"model\": \"m\",}", "run.json:1:15: syntax error"},
      {"{\"model\": \"m\",\n\"model\": \"n\"}", "run.json:2:7: duplicate key \"model\""},
      {with("\"optimizer\": {\"lr\": NaN}"), "run.json:5:"},
      {with("\"optimizer\": {\"lr\": 1e400}"), "run.json:5:"},
      {with("\"seed\": 9223372036854775808"), "integer beyond 64 bits"},
      {"// comment\n{}", "run.json:1:1: syntax error"},
  };
  CHECK(cases.size() >= 40);
  for (const Case& c : cases) {
    const std::string message = error_of(".json", c.text);
    INFO(c.text.substr(0, 200) << " -> " << message);
    CHECK(message.find(c.message) != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
    CHECK(message.size() < 1200);
  }
}

TEST_CASE("TOML configs are as strict") {
  const std::string front = "model = \"m\"\noutput_dir = \"o\"\ndata.train = \"t\"\n";
  const std::pair<std::string, std::string> cases[] = {
      {"[lora]\nrnak = 1",
       "run.toml:5: unknown key \"lora.rnak\"; the nearest known key is \"lora.rank\""},
      {"lora.rank = 0", "run.toml:4: lora.rank: found 0, expected an integer from 1 to 4096"},
      {"[train]\n\nepochs = \"1\"", "run.toml:6: train.epochs: found \"1\", expected a number"},
      {"[optimizer]\nlr = nan", "run.toml:5:6: infinity and NaN are not accepted"},
      {"[optimizer]\nlr = inf", "run.toml:5:6: infinity and NaN are not accepted"},
      {"seed = 2026-01-02", "run.toml:4:8: dates and times are not accepted"},
      {"lora = 3", "run.toml:4: lora: found 3, expected an object"},
      {"[[lora]]\nrank = 3", "lora: found array, expected an object"},
      {"model = \"n\"", "run.toml:4:"},
      {"lora.rank.x = 3", "lora.rank: found object, expected an integer"},
      {"seed = ", "run.toml:4:"},
  };
  for (const auto& [text, expected] : cases) {
    const std::string message = error_of(".toml", front + text);
    INFO(text << " -> " << message);
    CHECK(message.find(expected) != std::string::npos);
  }
  CHECK(error_of(".toml", front) == "accepted");
}

TEST_CASE("--set assigns over the file, as JSON where it parses") {
  const RunConfig c =
      load(".json", kMinimal,
           {"optimizer.lr=3e-4", "lora.targets=[\"q_proj\",\"v_proj\"]", "output_dir=2026",
            "device=cpu", "memory.vram=2.4 GB", "data.packing=false", "lora.targets=.*_proj",
            "train={\"epochs\": 3, \"micro_batch_size\": 2}", "model=a=b",
            "data.eval=", "memory.slots=4", "checkpoint.best=false", "optimizer.betas=[0.8, 0.95]",
            "train.epochs=4"});
  CHECK(c.optimizer.lr == 3e-4);
  CHECK(c.lora.targets == std::vector<std::string>{".*_proj"});
  CHECK(c.output_dir == "2026");
  CHECK(c.model == "a=b");
  CHECK(c.data.train == std::vector<std::string>{"t"});
  CHECK(c.data.eval.empty());
  CHECK_FALSE(c.data.packing);
  CHECK(c.memory.vram_bytes == 2'400'000'000);
  CHECK(c.memory.slots == 4);
  CHECK(c.train.epochs == 4);
  CHECK(c.train.micro_batch_size == 2);
  CHECK(c.checkpoint.best == false);
  CHECK(c.optimizer.beta2 == 0.95);
  const std::pair<std::string, std::string> wrong[] = {
      {"lora.rank", "--set lora.rank: expected key=value"},
      {"=3", "--set =3: expected key=value"},
      {"lora.rank=x",
       "--set lora.rank=x: lora.rank: found \"x\", expected an integer from 1 to 4096"},
      {"lora.rnk=8",
       "--set lora.rnk=8: unknown key \"lora.rnk\"; the nearest known key is \"lora.rank\""},
      {"lora=8", "--set lora=8: lora: found 8, expected an object"},
      {"train={\"epochs\": -1}", "train.epochs: found -1, expected a number from 0"},
      {"train.epochs=0", "--set train.epochs=0: with train.epochs 0, train.max_steps"},
      {"device=cuda:x",
       "--set device=cuda:x: device: found \"cuda:x\", expected one of auto, cpu, cuda, cuda:N"},
      {"optimizer.lr=NaN", "found \"NaN\", expected a number"},
      {"x\x1b[2J=1", "--set x\\x1b[2J=1: unknown key"},
  };
  for (const auto& [setting, expected] : wrong) {
    const std::string message = error_of(".json", kMinimal, {setting});
    INFO(setting << " -> " << message);
    CHECK(message.find(expected) != std::string::npos);
  }
}

TEST_CASE("a config without a file, defaults, and auto") {
  const RunConfig c = make_run_config({"model=m", "output_dir=o", "data.train=t"});
  CHECK(c.seed == 42);
  CHECK(c.optimizer.lr == 2e-4);
  CHECK(c.lora.targets == std::vector<std::string>{"all-linear"});
  CHECK_FALSE(c.data.append_eos);
  CHECK(print(c) == print(load(".json", kMinimal)));
  const RunConfig automatic = make_run_config(
      {"model=m", "output_dir=o", "data.train=t", "memory.vram=auto", "memory.slots=auto",
       "train.micro_batch_size=auto", "data.append_eos=auto", "checkpoint.best=auto"});
  CHECK(print(automatic) == print(c));
  CHECK_THROWS_WITH(make_run_config({"model=m"}),
                    Catch::StartsWith("the key \"output_dir\" is required"));
}

TEST_CASE("what is printed reads back equal, and holds every key") {
  const std::vector<std::string> settings = {
      "seed=9007199254740993", "optimizer.lr=0.1",           "memory.vram=3 GiB",
      "data.append_eos=true",  "lora.targets=[\"a\",\"b\"]", "train.micro_batch_size=3",
      "schedule.warmup=100",   "optimizer.betas=[0,0.5]",    "data.chat_template=chatml"};
  for (const auto& extra : {std::vector<std::string>{}, settings}) {
    const std::string printed = print(load(".json", kMinimal, extra));
    CHECK(print(load(".json", printed)) == printed);
  }
  const Value schema = run_config_schema();
  const Value printed = to_value(RunConfig{});
  size_t keys = 0;
  for (const auto& [key, value] : printed.as_object()) {
    const Value* property = schema.find("properties")->find(key);
    REQUIRE(property);
    if (!value.is_object()) {
      ++keys;
      continue;
    }
    for (const auto& [leaf, x] : value.as_object()) {
      CHECK(property->find("properties")->find(leaf));
      ++keys;
    }
  }
  CHECK(keys == 65);
  const std::string help = run_config_help();
  CHECK(static_cast<size_t>(std::count(help.begin(), help.end(), '\n')) == keys);
  CHECK(help.find("optimizer.lr") != std::string::npos);
}

TEST_CASE("files of another kind, or none, are usage errors") {
  CHECK(error_of(".yaml", "model: m").find("run.yaml: a run config ends in .json or .toml") == 0);
  try {
    load_run_config("/nonexistent/run.json", {});
    FAIL("accepted");
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::Usage);
    CHECK(std::string(e.what()) == "/nonexistent/run.json: no such file");
  }
}

TEST_CASE("every example config loads, and the same run is the same in JSON and TOML") {
  int count = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(kConfigs)) {
    if (entry.path().filename() == "run.schema.json") continue;
    INFO(entry.path().string());
    CHECK_NOTHROW(load_run_config(entry.path().string(), {}));
    ++count;
  }
  CHECK(count >= 2);
  CHECK(print(load_run_config((kConfigs / "quickstart.json").string(), {})) ==
        print(load_run_config((kConfigs / "quickstart.toml").string(), {})));
}

TEST_CASE("the schema accepts the byte counts that reading accepts") {
  const Value schema = run_config_schema();
  const Value* vram = schema.find("properties")->find("memory")->find("properties")->find("vram");
  const std::regex pattern(vram->find("anyOf")->as_array()[1].find("pattern")->as_string());
  const auto reads = [](const char* text) {
    return error_of(".json", kMinimal, {fmt::format("memory.vram=\"{}\"", text)}) == "accepted";
  };
  for (const char* text : {"auto", "12", "1.5 GB", "2GiB", "3 KiB", "7B", "0.5 TB"})
    CHECK((std::regex_search(text, pattern) && reads(text)));
  for (const char* text : {"2G", "2Gi", "2 K", "2iB", "GB", "2GBB", ""})
    CHECK((!std::regex_search(text, pattern) && !reads(text)));
}

TEST_CASE("the committed schema is the one of the code") {
  const fs::path path = kConfigs / "run.schema.json";
  const std::string schema = dump_json(run_config_schema(), 2) + "\n";
  // After an option has changed: run this test once with LEMA_WRITE_SCHEMA=1.
  if (std::getenv("LEMA_WRITE_SCHEMA")) write_file(path, schema);
  CHECK(read_text(path, 1 << 20) == schema);
}
