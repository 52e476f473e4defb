// Inference: next-token logits of several sequences over one key-value cache. The generator drives
// it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "generate/opened_model.h"
#include "generate/pass_inputs.h"

namespace lema {

// Tokens to append to one cached sequence.
struct Feed {
  int64_t sequence = 0;
  std::span<const int32_t> ids;
};

class Inference {
 public:
  // A cache of `sequences` times `capacity` tokens. `folder` outlives the object. Nothing is
  // allocated on the device after construction.
  Inference(const ModelFolder& folder, const OpenOptions& options, int64_t sequences,
            int64_t capacity);

  // Appends every feed's tokens to its sequence and returns the logits (feeds, V) f32 after each
  // feed's last token in host memory, valid until the next call. Feeds are not empty and name
  // distinct sequences. Tokens are packed end to end whatever their number, so prompts and single
  // tokens mix. A feed is rotated for the length that its sequence has after it; where that changes
  // the rotation of what is cached (longrope beyond the pretraining length), the whole sequence is
  // computed again.
  MatrixView append(std::span<const Feed> feeds);

  // What a sequence holds, and its first `length` tokens kept.
  const std::vector<int32_t>& cached_ids(int64_t sequence) const { return cache_.ids(sequence); }
  void truncate(int64_t sequence, int64_t length) { cache_.truncate(sequence, length); }
  // Keeps of a sequence what it has in common with `prompt` from the start, all but the prompt's
  // last token at most, and would be computed alike in one pass over the prompt. Returns how many
  // tokens that are.
  int64_t keep_common(int64_t sequence, std::span<const int32_t> prompt);

  int64_t sequences() const { return cache_.sequences(); }
  int64_t capacity() const { return cache_.capacity(); }
  OpenedModel& model() { return model_; }
  const KvCache& cache() const { return cache_; }

 private:
  // The pass that is being packed.
  struct Pass {
    std::vector<int32_t> ids, positions, token_rows;  // of each token
    std::vector<int32_t> sequences;                   // (S, 4) as Ops::attention takes them
    std::vector<int32_t> last_rows;                   // rows whose logits are wanted
  };
  void append(int64_t sequence, std::span<const int32_t> ids);
  void add(int64_t sequence, std::span<const int32_t> ids, int64_t length);
  void run_pass();
  int64_t logits_bytes(int64_t feeds) { return feeds * model_.config().V * 4; }

  OpenedModel model_;
  KvCache cache_;
  Pass pass_;
  PassInputs inputs_;
  std::vector<int32_t> again_;  // tokens of a sequence that are computed once more
  Buffer last_x_, logits_;
  Buffer host_logits_;  // where the host cannot read the device's
  int64_t finished_feeds_ = 0;  // whose logits are there
};

}  // namespace lema
