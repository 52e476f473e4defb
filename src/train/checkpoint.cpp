// Saving and restoring checkpoints. The commit order: each file synced, the manifest last, the
// folder synced, renamed, its parent synced, read back; only then do links move and older ones go.
#include "train/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/file_stamps.h"
#include "core/folder.h"
#include "core/hash.h"
#include "core/log.h"
#include "data/dataset.h"
#include "formats/json.h"
#include "formats/json_fields.h"
#include "formats/manifest.h"
#include "formats/peft_adapter.h"
#include "train/run_folder.h"

namespace lema {
namespace {

constexpr const char* kStateFile = "state.json";
constexpr const char* kStateTensors = "state.safetensors";
constexpr int64_t kMaxStateBytes = int64_t{1} << 20;

Value to_value(const TrainState& state, const RunIdentity& identity) {
  Value value;
  value.set("step", state.step);
  value.set("epoch", state.cursor.epoch);
  value.set("position", state.cursor.position);
  value.set("tokens_seen", state.tokens_seen);
  value.set("best_eval_loss", state.best_eval_loss ? Value(*state.best_eval_loss) : Value());
  value.set("best_step", state.best_step);
  value.set("owes_evaluation", state.owes_evaluation);
  value.set("run_id", state.run_id);
  value.set("numeric_plan", identity.numeric_plan);
  value.set("model_sha256", identity.model_sha256);
  value.set("weights_crc32c", identity.weights_crc32c);
  value.set("data_sha256", identity.data_sha256);
  value.set("text_sha256", identity.text_sha256);
  value.set("config", identity.config);
  return value;
}

// Between the chunks of files that are hashed before the first step.
void stop_check(int64_t) { StopSignals::check(); }

constexpr std::string_view kHashed = "sha256 ";

// A hash of a file, or of the adapter in a folder; anything else, the name of a built-in template,
// is its own content.
std::string content_of(const fs::path& path) {
  const fs::path file = fs::is_directory(path) ? path / "adapter_model.safetensors" : path;
  if (!fs::is_regular_file(file)) return path.string();
  return std::string(kHashed) + sha256_file(file, stop_check);
}

// One hash of all the files of a data set, "" for none.
std::string digest_of(const std::vector<std::string>& paths) {
  if (paths.empty()) return "";
  std::string digests;
  for (const std::string& file : data_files(paths)) digests += sha256_file(file, stop_check) + "\n";
  return sha256(digests);
}

// Adds "optimizer.lr 0.01, now 0.02" for every key that differs; null: the key is not there.
void add_differences(const std::string& key, const Value& saved, const Value& mine,
                     std::vector<std::string>& out) {
  if (saved == mine) return;
  if (!saved.is_object() || !mine.is_object()) {
    out.push_back(fmt::format("{} {}, now {}", key, escaped(dump_json(saved)),
                              escaped(dump_json(mine))));
    return;
  }
  const auto member_of = [](const Value& object, const std::string& name) {
    const Value* found = object.find(name);
    return found ? *found : Value();
  };
  const std::string front = key.empty() ? "" : key + ".";
  for (const auto& [name, value] : mine.as_object())
    add_differences(front + escaped(name), member_of(saved, name), value, out);
  for (const auto& [name, value] : saved.as_object())
    if (!mine.find(name)) add_differences(front + escaped(name), value, Value(), out);
}

// Ends in Usage, naming what differs and how to go on all the same, unless that is accepted.
class Comparison {
 public:
  Comparison(const fs::path& state, const std::set<std::string>& accepted)
      : checkpoint_(state.parent_path()), accepted_(accepted) {}

  void expect_same(const Value& saved, const Value& mine, const char* name, const char* what) {
    if (!(saved == mine))
      differs(name, what, escaped(dump_json(saved)) + ", now " + escaped(dump_json(mine)));
  }
  void differs(const char* name, const char* what, const std::string& how) {
    if (!accepted_.contains(name))
      fail(ErrorCode::Usage,
           "{}: saved with another {}: {}; to go on all the same: --accept-changed {}",
           checkpoint_.string(), what, how, name);
    log::warn("{}: saved with another {}: {}; accepted", checkpoint_.string(), what, how);
  }

 private:
  fs::path checkpoint_;
  const std::set<std::string>& accepted_;
};

// lora.init_from of a config as it is kept: "" or a hash where its files were there to be read.
Value& init_from(Value& config, const fs::path& path) {
  if (config.is_object())
    for (auto& [section, lora] : config.as_object())
      if (section == "lora" && lora.is_object())
        for (auto& [key, value] : lora.as_object())
          if (key == "init_from" && value.is_string()) return value;
  fail(ErrorCode::BadInput, "{}: config: no text lora.init_from", path.string());
}

void compare(const Value& saved, const fs::path& path, RunIdentity& identity,
             const std::set<std::string>& accepted) {
  Comparison with(path, accepted);
  const JsonFields fields(saved, path.string());
  const auto of = [&](std::string_view key) -> const Value& { return fields.required(key); };
  with.expect_same(of("model_sha256"), identity.model_sha256, "model", "model");
  with.expect_same(of("weights_crc32c"), identity.weights_crc32c, "model", "model: its weights");
  with.expect_same(of("data_sha256"), identity.data_sha256, "data", "data set (data.train)");
  with.expect_same(of("numeric_plan"), identity.numeric_plan, "plan", "numeric plan");
  // The adapter that the run started from lives on in the checkpoint and need not be there.
  Value config = of("config");
  Value &mine = init_from(identity.config, path), &its = init_from(config, path);
  if (!mine.as_string().empty() && !mine.as_string().starts_with(kHashed) &&
      !its.as_string().empty())
    mine = its;
  std::vector<std::string> differences;
  add_differences("", config, identity.config, differences);
  if (!differences.empty())
    with.differs("config", "config", fmt::format("{}", fmt::join(differences, "; ")));
  // The config's template and variables are part of it: where those differ, they are named above.
  with.expect_same(of("text_sha256"), identity.text_sha256, "text",
                   "tokenizer or chat template of the model");
}

void write_state_tensors(const fs::path& path, Trainer& trainer) {
  const int64_t count = trainer.moment1().elements();
  SafetensorsWriter writer(
      path, {{"moment1", DType::F32, {count}}, {"moment2", DType::F32, {count}}}, {});
  constexpr int64_t kAtOnce = 1 << 20;
  std::vector<float> values(static_cast<size_t>(std::min(count, kAtOnce)));
  for (const TensorView& moment : {trainer.moment1(), trainer.moment2()})
    for (int64_t begin = 0; begin < count; begin += kAtOnce) {
      const int64_t n = std::min(kAtOnce, count - begin);
      trainer.device().copy_async(Queue::Compute, values.data(), moment.as<float>() + begin, n * 4);
      trainer.device().synchronize(Queue::Compute);
      writer.write(values.data(), n * 4);
    }
  writer.finish();
}

void read_state_tensors(const fs::path& path, Trainer& trainer) {
  const SafetensorsFile file(path);
  for (const auto& [tensor_name, moment] :
       {std::pair("moment1", trainer.moment1()), {"moment2", trainer.moment2()}}) {
    const TensorEntry* entry = file.find(tensor_name);
    if (!entry || entry->dtype != DType::F32 || !(entry->shape == moment.shape))
      fail(ErrorCode::BadInput, "{}: {} is missing or not F32 {}", path.string(), tensor_name,
           moment.shape.str());
    std::vector<float> values(static_cast<size_t>(moment.elements()));
    file.read(*entry, values.data());
    const auto bad = std::find_if_not(values.begin(), values.end(),
                                      [](float x) { return std::isfinite(x); });
    if (bad != values.end())
      fail(ErrorCode::BadInput, "{}: element {} of {} is {}", path.string(), bad - values.begin(),
           tensor_name, *bad);
    trainer.device().copy_async(Queue::Compute, moment.data, values.data(), moment.bytes());
    trainer.device().synchronize(Queue::Compute);
  }
}

}  // namespace

RunIdentity run_identity(const RunConfig& config, const ModelFolder& folder,
                         const std::string& text_fingerprint, const NumericPlan& numeric) {
  std::string model = dump_json(folder.config_json());
  for (const auto& [tensor, stored] : folder.tensors())
    model += fmt::format("{} {} {} {}\n", tensor, name(stored.entry.dtype),
                         stored.entry.shape.str(), stored.entry.offset);
  // Where things lie and how often they are reported may change between runs; what is computed may
  // not. The numeric plan names the device's backend.
  RunConfig steering = config;
  steering.device = RunConfig().device;
  steering.model.clear();
  steering.output_dir.clear();
  steering.threads = 0;
  steering.data.train.clear();
  steering.data.eval = {digest_of(config.data.eval)};
  steering.data.cache.clear();
  steering.data.chat_template = content_of(config.data.chat_template);
  steering.lora.init_from = content_of(config.lora.init_from);
  steering.memory = {};
  steering.checkpoint = {};
  steering.eval = {};
  steering.log = {};
  return {numeric.to_value(),           sha256(model),    "",
          digest_of(config.data.train), text_fingerprint, lema::to_value(steering)};
}

std::string weights_checksum(const ModelFolder& folder, const std::function<void()>& check) {
  std::string all;
  for (const SafetensorsFile& file : folder.files()) {
    all += fmt::format("{}{:08x}", all.empty() ? "" : " ",
                       crc32c_file(file.file(), [&](int64_t) { check(); }));
    file.file().check_unchanged();  // of what the run read, not of what came after
  }
  return all;
}

fs::path save_checkpoint(const fs::path& output_dir, Trainer& trainer, const TrainState& state,
                         const RunIdentity& identity, const std::string& base_model,
                         const std::string& chat_template, bool replaces) {
  const fs::path folder = checkpoint_folder(output_dir, state.step);
  trainer.check_finite(state.step - 1);
  check_free_space(folder, checkpoint_bytes(trainer));
  StagedFolder staged(folder, replaces);
  write_adapter(staged.path(), trainer.adapter().to_adapter(base_model));
  if (!chat_template.empty()) write_new_file(staged.path() / kAdapterTemplate, chat_template);
  write_state_tensors(staged.path() / kStateTensors, trainer);
  Value value = to_value(state, identity);
  value.set("guard", trainer.guard().to_value());
  if (trainer.loss_scale().is_on()) value.set("loss_scale", trainer.loss_scale().to_value());
  write_new_file(staged.path() / kStateFile, dump_json(value, 2) + "\n");
  write_manifest(staged.path(), state.step, state.run_id);
  staged.commit();
  // What counts is what the disk gives back, not what the page cache still holds.
  for (const std::string& name : list_folder(folder))
    File::open(folder / name).forget_cached(0, 0);
  if (const auto reason = unsound(folder))
    fail(ErrorCode::Io, "{}: reads back damaged: {}", folder.string(), *reason);
  mark_last(output_dir, folder);
  return folder;
}

int64_t checkpoint_bytes(Trainer& trainer) {
  constexpr int64_t kRest = 1 << 20;  // headers, configs, manifest, links
  return 3 * 4 * trainer.adapter().parameter_count() + kRest;
}

Value saved_config(const fs::path& checkpoint) {
  const fs::path path = checkpoint / kStateFile;
  const Value state = parse_json(read_text(path, kMaxStateBytes), path.string());
  return JsonFields(state, path.string()).required("config");
}

TrainState load_checkpoint(const fs::path& checkpoint, Trainer& trainer, RunIdentity& identity,
                           const std::set<std::string>& accepted) {
  std::vector<std::string> files;
  for (const std::string& name : list_folder(checkpoint)) files.push_back(checkpoint / name);
  const FileStamps verified(files);
  if (const auto reason = unsound(checkpoint))
    fail(ErrorCode::BadInput, "{}: {}", checkpoint.string(), *reason);
  const fs::path path = checkpoint / kStateFile;
  const Value value = parse_json(read_text(path, kMaxStateBytes), path.string());
  compare(value, path, identity, accepted);
  trainer.adapter().load(read_adapter(checkpoint));
  read_state_tensors(checkpoint / kStateTensors, trainer);
  const JsonFields fields(value, path.string());
  if (trainer.loss_scale().is_on())
    trainer.loss_scale().restore(fields.required("loss_scale"), path.string());
  trainer.guard().restore(fields.required("guard"), path.string());
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 2;
  const auto count = [&](const char* key) { return fields.required_integer(key, 0, kMost); };
  TrainState state;
  state.step = count("step");
  state.cursor = {count("epoch"), count("position")};
  state.tokens_seen = count("tokens_seen");
  if (fields.find("best_eval_loss"))
    state.best_eval_loss = fields.required_number("best_eval_loss", -1e300, 1e300);
  state.best_step = count("best_step");
  state.owes_evaluation = fields.boolean("owes_evaluation", false);
  state.run_id = fields.required_text("run_id");
  verified.check_unchanged();  // what was verified is what was read
  return state;
}

}  // namespace lema
