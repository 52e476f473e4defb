// The checkpoints in an output folder, as files: which there are, which are sound, where `last` and
// `best` point, which go. What they hold is checkpoint.h. Called by the training run and by
// inspect.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/folder.h"

namespace lema {

// output_dir/checkpoint-000500
fs::path checkpoint_folder(const fs::path& output_dir, int64_t step);
// The step in "checkpoint-000500"; nullopt for any other name.
std::optional<int64_t> step_of(const fs::path& folder);
// The folders of that name and links to folders, newest first.
std::vector<fs::path> checkpoints(const fs::path& output_dir);
inline bool has_checkpoints(const fs::path& output_dir) { return !checkpoints(output_dir).empty(); }

// Why a folder is no sound checkpoint: its manifest does not hold, or is of another step than its
// name. nullopt: it is sound. Reads every byte.
std::optional<std::string> unsound(const fs::path& checkpoint);
// The newest sound checkpoint, by step; says in the log which it passes over and why. BadInput when
// there is none.
fs::path newest_checkpoint(const fs::path& output_dir);

// Point output_dir/last and output_dir/best at a checkpoint.
void mark_last(const fs::path& output_dir, const fs::path& checkpoint);
void mark_best(const fs::path& output_dir, const fs::path& checkpoint);

// Removes the oldest checkpoints until `keep` are left, at least two of them read back and found
// sound, `newest` by its writer; that of best_step is kept beside those, and so are links. What
// cannot be read or removed is said in the log.
void prune_checkpoints(const fs::path& output_dir, const fs::path& newest, int64_t keep,
                       std::optional<int64_t> best_step);

// Usage when a checkpoint of a step after `step`, up to `last`, could not get its name, which
// something has that is no checkpoint.
void check_names(const fs::path& output_dir, int64_t step, int64_t last);

// Removes what runs that were cut off left of their own: half-written checkpoints, links and files
// under temporary names, checkpoints on their way out. Nothing else, however alike its name.
void remove_leftovers(const fs::path& output_dir);

// Makes output_dir's checkpoints those of a run that goes on from `step`: later ones are set aside
// under names that nothing looks for (said in the log), `last` and `best` point at what is left.
// False when the checkpoint of best_step is not there. Usage error, with nothing changed, when one
// is of another run.
bool enter_run(const fs::path& output_dir, const std::string& run_id, int64_t step,
               std::optional<int64_t> best_step);

}  // namespace lema
