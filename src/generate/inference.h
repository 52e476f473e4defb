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
  // feed's last token, valid until the next call. Feeds are not empty and name distinct sequences.
  // Tokens are packed end to end whatever their number, so prompts and single tokens mix.
  MatrixView append(std::span<const Feed> feeds);

  // What a sequence holds, and its first `length` tokens kept.
  const std::vector<int32_t>& cached_ids(int64_t sequence) const { return cache_.ids(sequence); }
  void truncate(int64_t sequence, int64_t length) { cache_.truncate(sequence, length); }

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
  void add(int64_t sequence, std::span<const int32_t> ids);
  void run_pass();

  OpenedModel model_;
  KvCache cache_;
  Pass pass_;
  PassInputs inputs_;
  Buffer last_x_, logits_;
  int64_t finished_feeds_ = 0;  // whose logits are there
};

}  // namespace lema
