// Saving, finding and restoring checkpoints. Ref: the commit order is manifest last, sync, rename,
// sync, read back, prune.
#include "train/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <vector>

#include "core/hash.h"
#include "core/log.h"
#include "data/dataset.h"
#include "formats/json.h"
#include "formats/manifest.h"
#include "formats/peft_adapter.h"

namespace lema {
namespace {

constexpr std::string_view kPrefix = "checkpoint-";
constexpr int64_t kMaxStateBytes = int64_t{1} << 20;

// The step in "checkpoint-000500"; nullopt for any other name.
std::optional<int64_t> step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const char* begin = name.data() + kPrefix.size();
  const char* end = name.data() + name.size();
  int64_t step = 0;
  const auto [stop, error] = std::from_chars(begin, end, step);
  if (error != std::errc() || stop != end) return std::nullopt;
  return step;
}

// Checkpoint folders, newest first.
std::vector<fs::path> checkpoints(const fs::path& output_dir) {
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(output_dir, error))
    if (entry.is_directory() && !entry.is_symlink() && step_of(entry.path()))
      found.push_back(entry.path());
  std::sort(found.begin(), found.end(),
            [](const fs::path& a, const fs::path& b) { return *step_of(a) > *step_of(b); });
  return found;
}

// A relative symlink that replaces an older one in one step.
void point(const fs::path& link, const fs::path& target) {
  const fs::path temporary = link.string() + ".tmp";
  std::error_code error;
  fs::remove(temporary, error);
  fs::create_symlink(target.filename(), temporary, error);
  if (!error) fs::rename(temporary, link, error);
  if (error)
    fail(ErrorCode::Io, "{}: cannot point at {}: {}", link.string(), target.string(),
         error.message());
  sync_folder(link.parent_path());
}

// The id of the run that wrote a checkpoint; nullopt when its manifest is damaged.
std::optional<std::string> run_of(const fs::path& checkpoint) {
  try {
    return read_manifest(checkpoint).run_id;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::BadInput) throw;
    return std::nullopt;
  }
}

void set_aside(const fs::path& folder, int64_t step) {
  fs::path aside = folder.string() + ".abandoned";
  for (int n = 2; fs::exists(aside); ++n)
    aside = fmt::format("{}.abandoned-{}", folder.string(), n);
  rename_new(folder, aside);
  log::warn("{}: later than step {}, where the run goes on: set aside as {}", folder.string(), step,
            aside.filename().string());
}

Value to_value(const TrainState& state, const RunIdentity& identity) {
  Value value;
  value.set("step", state.step);
  value.set("epoch", state.cursor.epoch);
  value.set("position", state.cursor.position);
  value.set("tokens_seen", state.tokens_seen);
  value.set("best_eval_loss", state.best_eval_loss ? Value(*state.best_eval_loss) : Value());
  value.set("best_step", state.best_step);
  value.set("run_id", state.run_id);
  value.set("numeric_plan", identity.numeric_plan);
  value.set("model_sha256", identity.model_sha256);
  value.set("data_sha256", identity.data_sha256);
  value.set("text_sha256", identity.text_sha256);
  value.set("config", identity.config);
  return value;
}

const Value& member(const Value& value, std::string_view key, const fs::path& path) {
  const Value* found = value.find(key);
  if (!found) fail(ErrorCode::BadInput, "{}: {} is missing", path.string(), key);
  return *found;
}

// A hash of a file, or of the adapter in a folder; anything else, the name of a built-in template,
// is its own content.
std::string content_of(const fs::path& path) {
  const fs::path file = fs::is_directory(path) ? path / "adapter_model.safetensors" : path;
  return fs::is_regular_file(file) ? "sha256 " + sha256_file(file) : path.string();
}

// One hash of all the files of a data set, "" for none.
std::string digest_of(const std::vector<std::string>& paths) {
  if (paths.empty()) return "";
  std::string digests;
  for (const std::string& file : data_files(paths)) digests += sha256_file(file) + "\n";
  return sha256(digests);
}

// Adds "optimizer.lr 0.01, now 0.02" for every key that differs; null: the key is not there.
void add_differences(const std::string& key, const Value& saved, const Value& mine,
                     std::vector<std::string>& out) {
  if (saved == mine) return;
  if (!saved.is_object() || !mine.is_object()) {
    out.push_back(fmt::format("{} {}, now {}", key, dump_json(saved), dump_json(mine)));
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
  // not.
  RunConfig steering = config;
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
  return {numeric.to_value(), sha256(model), digest_of(config.data.train), text_fingerprint,
          lema::to_value(steering)};
}

fs::path save_checkpoint(const fs::path& output_dir, Trainer& trainer, const TrainState& state,
                         const RunIdentity& identity, const std::string& base_model,
                         const std::string& chat_template) {
  const fs::path folder = output_dir / fmt::format("{}{:06}", kPrefix, state.step);
  StagedFolder staged(folder);
  write_adapter(staged.path(), trainer.adapter().to_adapter(base_model));
  if (!chat_template.empty()) write_file(staged.path() / kAdapterTemplate, chat_template);
  write_state_tensors(staged.path() / "state.safetensors", trainer);
  Value value = to_value(state, identity);
  if (trainer.loss_scale().is_on()) value.set("loss_scale", trainer.loss_scale().to_value());
  write_file(staged.path() / "state.json", dump_json(value, 2) + "\n");
  write_manifest(staged.path(), state.step, state.run_id);
  staged.commit();
  if (const auto reason = verify_manifest(folder))
    fail(ErrorCode::Io, "{}: reads back damaged: {}", folder.string(), *reason);
  point(output_dir / "last", folder);
  return folder;
}

void mark_best(const fs::path& output_dir, const fs::path& checkpoint) {
  point(output_dir / "best", checkpoint);
}

void prune_checkpoints(const fs::path& output_dir, int64_t keep) {
  keep = std::max<int64_t>(2, keep);
  const std::vector<fs::path> found = checkpoints(output_dir);
  std::error_code error;
  const fs::path best = fs::read_symlink(output_dir / "best", error);
  for (size_t i = static_cast<size_t>(keep); i < found.size(); ++i) {
    if (found[i].filename() == best) continue;
    const fs::path trash = output_dir / fmt::format(".{}.trash", found[i].filename().string());
    fs::rename(found[i], trash, error);
    if (!error) fs::remove_all(trash, error);
    if (error) log::warn("{}: cannot remove: {}", found[i].string(), error.message());
  }
}

bool has_checkpoints(const fs::path& output_dir) { return !checkpoints(output_dir).empty(); }

fs::path newest_checkpoint(const fs::path& output_dir) {
  for (const fs::path& folder : checkpoints(output_dir)) {
    const auto reason = verify_manifest(folder);
    if (!reason) return folder;
    log::warn("{}: passed over: {}", folder.string(), *reason);
  }
  fail(ErrorCode::BadInput, "{}: no complete checkpoint to resume from; {}", output_dir.string(),
       has_checkpoints(output_dir) ? "name another output_dir" : "start without --resume");
}

TrainState load_checkpoint(const fs::path& checkpoint, Trainer& trainer,
                           const RunIdentity& identity) {
  if (const auto reason = verify_manifest(checkpoint))
    fail(ErrorCode::BadInput, "{}: {}", checkpoint.string(), *reason);
  const fs::path path = checkpoint / "state.json";
  const Value value = parse_json(read_text(path, kMaxStateBytes), path.string());
  const auto same = [&](std::string_view key, const Value& mine, const char* what) {
    if (!(member(value, key, path) == mine))
      fail(ErrorCode::Usage, "{}: saved with another {}: {}, now {}", checkpoint.string(), what,
           dump_json(member(value, key, path)), dump_json(mine));
  };
  same("model_sha256", identity.model_sha256, "model");
  same("data_sha256", identity.data_sha256, "training file");
  same("numeric_plan", identity.numeric_plan, "numeric plan");
  std::vector<std::string> differences;
  add_differences("", member(value, "config", path), identity.config, differences);
  if (!differences.empty())
    fail(ErrorCode::Usage, "{}: saved with another config: {}", checkpoint.string(),
         fmt::join(differences, "; "));
  // The config's template and variables are part of it: where those differ, they are named above.
  same("text_sha256", identity.text_sha256, "tokenizer or chat template of the model");
  trainer.adapter().load(read_adapter(checkpoint));
  read_state_tensors(checkpoint / "state.safetensors", trainer);
  if (trainer.loss_scale().is_on())
    trainer.loss_scale().restore(member(value, "loss_scale", path), path.string());
  TrainState state;
  state.step = member(value, "step", path).as_int();
  state.cursor = {member(value, "epoch", path).as_int(), member(value, "position", path).as_int()};
  state.tokens_seen = member(value, "tokens_seen", path).as_int();
  if (const Value& best = member(value, "best_eval_loss", path); !best.is_null())
    state.best_eval_loss = best.as_number();
  state.best_step = member(value, "best_step", path).as_int();
  state.run_id = member(value, "run_id", path).as_string();
  return state;
}

void enter_run(const fs::path& output_dir, TrainState& state) {
  const std::vector<fs::path> found = checkpoints(output_dir);
  for (const fs::path& folder : found)
    if (const auto run_id = run_of(folder); run_id && *run_id != state.run_id)
      fail(ErrorCode::Usage,
           "{}: is of another run ({}) than the resumed one ({}); name another output_dir",
           folder.string(), *run_id, state.run_id);
  const auto kept = std::find_if(found.begin(), found.end(), [&](const fs::path& folder) {
    return *step_of(folder) <= state.step;
  });
  const auto best = std::find_if(kept, found.end(), [&](const fs::path& folder) {
    return state.best_eval_loss && *step_of(folder) == state.best_step;
  });
  if (best == found.end()) state.best_eval_loss.reset();
  for (const auto& [link, target] : {std::pair("last", kept), {"best", best}}) {
    std::error_code error;
    if (target != found.end())
      point(output_dir / link, *target);
    else
      fs::remove(output_dir / link, error);
  }
  for (auto later = found.begin(); later != kept; ++later) set_aside(*later, state.step);
  sync_folder(output_dir);
}

}  // namespace lema
