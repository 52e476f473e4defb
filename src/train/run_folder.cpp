// Names, links and rotation of checkpoint folders.
#include "train/run_folder.h"

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "core/log.h"
#include "formats/manifest.h"

namespace lema {
namespace {

constexpr std::string_view kPrefix = "checkpoint-", kTrash = ".trash";

// What is written under a temporary name first, besides checkpoints.
constexpr std::string_view kStaged[] = {"best",      "last",          "run.json",
                                        "plan.json", "metrics.jsonl", "bad_rows.jsonl"};

// Through links.
bool is_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

// The id of the run that wrote a checkpoint; nullopt, said in the log, when its manifest is damaged
// or cannot be read.
std::optional<std::string> run_of(const fs::path& checkpoint) {
  try {
    return read_manifest(checkpoint).run_id;
  } catch (const Error& error) {
    log::warn("{}", error.what());
    return std::nullopt;
  }
}

// Whether an older checkpoint is worth keeping for; what cannot be read is not, and ends no run.
bool is_sound(const fs::path& checkpoint) {
  try {
    return !unsound(checkpoint);
  } catch (const Error& error) {
    log::warn("{}", error.what());
    return false;
  }
}

void set_aside(const fs::path& folder, int64_t step) {
  fs::path aside = folder.string() + ".abandoned";
  for (int n = 2; is_there(aside); ++n)
    aside = fmt::format("{}.abandoned-{}", folder.string(), n);
  rename_new(folder, aside);
  log::warn("{}: later than step {}, where the run goes on: set aside as {}", folder.string(), step,
            aside.filename().string());
}

// Out of sight in one step, then gone.
void discard(const fs::path& folder) {
  try {
    const fs::path trash =
        folder.parent_path() / fmt::format(".{}{}", folder.filename().string(), kTrash);
    remove_tree(trash);
    rename_new(folder, trash);
    remove_tree(trash);
  } catch (const Error& error) {
    log::warn("{}: cannot remove: {}", folder.string(), error.what());
  }
}

bool is_leftover(const std::string& name) {
  if (name.starts_with('.') && name.ends_with(kTrash) && name.size() > 1 + kTrash.size())
    return step_of(name.substr(1, name.size() - 1 - kTrash.size())).has_value();
  const auto whose = abandoned_name(name);
  return whose && (step_of(*whose) || std::ranges::find(kStaged, *whose) != std::end(kStaged));
}

}  // namespace

fs::path checkpoint_folder(const fs::path& output_dir, int64_t step) {
  return output_dir / fmt::format("{}{:06}", kPrefix, step);
}

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

std::vector<fs::path> checkpoints(const fs::path& output_dir) {
  std::vector<fs::path> found;
  for (const std::string& name : list_folder(output_dir))
    if (step_of(name) && is_folder(output_dir / name)) found.push_back(output_dir / name);
  std::sort(found.begin(), found.end(),
            [](const fs::path& a, const fs::path& b) { return *step_of(a) > *step_of(b); });
  return found;
}

std::optional<std::string> unsound(const fs::path& checkpoint) {
  if (auto reason = verify_manifest(checkpoint)) return reason;
  const auto named = step_of(checkpoint);
  const int64_t step = read_manifest(checkpoint).step;
  if (!named || *named == step) return std::nullopt;
  return fmt::format("{}: its manifest is of step {}", checkpoint.string(), step);
}

fs::path newest_checkpoint(const fs::path& output_dir) {
  const std::vector<fs::path> found = checkpoints(output_dir);
  for (const fs::path& folder : found) {
    const auto reason = unsound(folder);
    if (!reason) return folder;
    log::warn("{}: passed over: {}", folder.string(), *reason);
  }
  fail(ErrorCode::BadInput, "{}: no complete checkpoint to resume from; {}", output_dir.string(),
       found.empty() ? "start without --resume" : "name another output_dir");
}

void mark_last(const fs::path& output_dir, const fs::path& checkpoint) {
  point_link(output_dir / "last", checkpoint.filename().string());
}

void mark_best(const fs::path& output_dir, const fs::path& checkpoint) {
  point_link(output_dir / "best", checkpoint.filename().string());
}

void prune_checkpoints(const fs::path& output_dir, const fs::path& newest, int64_t keep,
                       std::optional<int64_t> best_step) {
  constexpr int64_t kLeastSound = 2;
  std::vector<fs::path> found = checkpoints(output_dir);
  std::erase_if(found, [](const fs::path& folder) { return fs::is_symlink(folder); });
  if (std::ssize(found) <= std::max(keep, kLeastSound)) return;
  int64_t kept = 0, sound = 0;
  for (const fs::path& folder : found) {
    const bool is_best = step_of(folder) == best_step;
    if (sound < kLeastSound && (folder == newest || is_sound(folder))) {
      ++sound;
    } else if (!is_best && kept >= std::max(keep, kLeastSound) && sound >= kLeastSound) {
      discard(folder);
      continue;
    }
    if (!is_best) ++kept;
  }
}

void check_names(const fs::path& output_dir, int64_t step, int64_t last) {
  for (const std::string& name : list_folder(output_dir)) {
    const fs::path path = output_dir / name;
    const int64_t of = step_of(path).value_or(0);
    if (of > step && of <= last && path == checkpoint_folder(output_dir, of) &&
        !is_folder(path))
      fail(ErrorCode::Usage,
           "{}: is no folder, and where step {} is to be saved; move it or name another output_dir",
           path.string(), of);
  }
}

void remove_leftovers(const fs::path& output_dir) {
  for (const std::string& name : list_folder(output_dir))
    if (is_leftover(name)) remove_leftover(output_dir / name);
}

bool enter_run(const fs::path& output_dir, const std::string& run_id, int64_t step,
               std::optional<int64_t> best_step) {
  const std::vector<fs::path> found = checkpoints(output_dir);
  for (const fs::path& folder : found)
    if (const auto other = run_of(folder); other && *other != run_id)
      fail(ErrorCode::Usage,
           "{}: is of another run ({}) than the resumed one ({}); name another output_dir",
           folder.string(), *other, run_id);
  const auto kept = std::find_if(found.begin(), found.end(), [&](const fs::path& folder) {
    return *step_of(folder) <= step;
  });
  const auto best = std::find_if(
      kept, found.end(), [&](const fs::path& folder) { return step_of(folder) == best_step; });
  for (const auto& [link, target] : {std::pair("last", kept), {"best", best}})
    if (target != found.end())
      point_link(output_dir / link, target->filename().string());
    else
      remove_file(output_dir / link);
  for (auto later = found.begin(); later != kept; ++later) set_aside(*later, step);
  sync_folder(output_dir);
  return best != found.end();
}

}  // namespace lema
