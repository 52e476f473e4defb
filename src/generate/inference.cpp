// Packing of feeds into passes and the logits of their last tokens.
#include "generate/inference.h"

#include <algorithm>

namespace lema {
namespace {

// Tokens of one pass: enough that products are bound by arithmetic, few enough that the workspace
// stays small.
constexpr int64_t kPassTokens = 1024;

}  // namespace

Inference::Inference(const ModelFolder& folder, const OpenOptions& options, int64_t sequences,
                     int64_t capacity)
    : model_(folder, options, {std::min(kPassTokens, sequences * capacity), capacity}),
      cache_(model_.device(), model_.ops(), model_.config(), model_.activation_dtype(), sequences,
             capacity),
      inputs_(model_.device(), 4 * model_.limits().tokens + 5 * sequences) {
  const int64_t tokens = model_.limits().tokens;
  for (auto* values : {&pass_.ids, &pass_.positions, &pass_.token_rows})
    values->reserve(static_cast<size_t>(tokens));
  again_.reserve(static_cast<size_t>(capacity));
  pass_.sequences.reserve(static_cast<size_t>(4 * sequences));
  pass_.last_rows.reserve(static_cast<size_t>(sequences));
  Device& device = model_.device();
  last_x_ = device.allocate(
      sequences * model_.config().C * element_bytes(model_.activation_dtype()), "last rows");
  logits_ = device.allocate(logits_bytes(sequences), "logits");
  if (!device.reads_host_memory())
    host_logits_ = device.allocate_pinned(logits_bytes(sequences), "logits (host)");
  model_.place_weights();
}

MatrixView Inference::append(std::span<const Feed> feeds) {
  check(std::ssize(feeds) <= sequences(), "{} feeds of {} sequences", feeds.size(), sequences());
  finished_feeds_ = 0;
  for (const Feed& feed : feeds) {
    check(!feed.ids.empty(), "an empty feed of sequence {}", feed.sequence);
    const std::vector<int32_t>& cached = cache_.ids(feed.sequence);
    const int64_t length = std::ssize(cached) + std::ssize(feed.ids);
    if (cached.empty() || !model_.transformer().rope_table().outgrows(std::ssize(cached), length)) {
      append(feed.sequence, feed.ids);
      continue;
    }
    again_ = cached;
    again_.insert(again_.end(), feed.ids.begin(), feed.ids.end());
    cache_.truncate(feed.sequence, 0);
    append(feed.sequence, again_);
  }
  if (!pass_.ids.empty()) run_pass();
  const bool copied = host_logits_.bytes() > 0;
  if (copied) {
    Device& device = model_.device();
    device.copy_async(Queue::Compute, host_logits_.data(), logits_.data(),
                      logits_bytes(finished_feeds_));
    device.synchronize(Queue::Compute);
  }
  return {copied ? host_logits_.data() : logits_.data(), DType::F32, finished_feeds_,
          model_.config().V};
}

// One feed, over as many passes as it takes.
void Inference::append(int64_t sequence, std::span<const int32_t> ids) {
  const auto tile = static_cast<size_t>(model_.limits().tokens);
  const int64_t length = std::ssize(cache_.ids(sequence)) + std::ssize(ids);
  for (size_t begin = 0; begin < ids.size();) {
    const size_t n = std::min(ids.size() - begin, tile - pass_.ids.size());
    add(sequence, ids.subspan(begin, n), length);
    begin += n;
    if (begin == ids.size()) pass_.last_rows.push_back(static_cast<int32_t>(pass_.ids.size()) - 1);
    if (pass_.ids.size() == tile) run_pass();
  }
}

int64_t Inference::keep_common(int64_t sequence, std::span<const int32_t> prompt) {
  const std::vector<int32_t>&ids = cache_.ids(sequence), &lengths = cache_.lengths(sequence);
  const RopeTable& rope = model_.transformer().rope_table();
  const size_t most = std::min(ids.size(), prompt.size() - 1);
  size_t common = 0;
  while (common < most && ids[common] == prompt[common] &&
         rope.is_alike(lengths[common], std::ssize(prompt)))
    ++common;
  cache_.truncate(sequence, static_cast<int64_t>(common));
  return static_cast<int64_t>(common);
}

// Books the tokens and adds them to the pass as one sequence: queries are these, keys all that the
// cache holds. `length` is what the sequence will have at the end of its feed.
void Inference::add(int64_t sequence, std::span<const int32_t> ids, int64_t length) {
  const auto begin = static_cast<int32_t>(pass_.ids.size());
  for (int32_t id : ids) {
    const int64_t position = cache_.push(sequence, id, length);
    pass_.ids.push_back(id);
    pass_.positions.push_back(static_cast<int32_t>(position));
    pass_.token_rows.push_back(static_cast<int32_t>(cache_.row(sequence, position)));
  }
  RopeTable& rope = model_.transformer().rope_table();
  if (begin == 0) rope.begin_pass();
  rope.map(std::span(pass_.positions).subspan(static_cast<size_t>(begin)), length);
  const auto kv_begin = static_cast<int32_t>(cache_.row(sequence, 0));
  const auto kv_length = static_cast<int32_t>(cache_.ids(sequence).size());
  pass_.sequences.insert(pass_.sequences.end(),
                         {begin, static_cast<int32_t>(ids.size()), kv_begin, kv_length});
}

void Inference::run_pass() {
  const int64_t N = std::ssize(pass_.ids), last = std::ssize(pass_.last_rows),
                V = model_.config().V;
  inputs_.clear();
  TokenBatch batch;
  batch.tokens = N;
  model_.put_ids(batch, inputs_, pass_.ids);
  batch.positions = inputs_.put(pass_.positions, {N});
  batch.sequences = inputs_.put(pass_.sequences, {std::ssize(pass_.sequences) / 4, 4});
  const TensorView token_rows = inputs_.put(pass_.token_rows, {N}),
                   last_rows = inputs_.put(pass_.last_rows, {last});
  inputs_.send();
  model_.transformer().rope_table().send();

  const MatrixView x = model_.forward(batch, &cache_, token_rows, last > 0 ? 1 : 0);
  if (last > 0) {
    const MatrixView last_x(last_x_.data(), x.dtype, last, x.cols);
    model_.ops().embedding(last_x, last_rows, {x.data, x.dtype, {x.rows, x.cols}},
                           Write::Overwrite);
    model_.final_norm(last_x, last_x);
    const MatrixView logits(logits_.data() + finished_feeds_ * V * 4, DType::F32, last, V);
    model_.logits(logits, last_x);
  }
  model_.device().synchronize(Queue::Compute);
  finished_feeds_ += last;
  for (auto* values :
       {&pass_.ids, &pass_.positions, &pass_.token_rows, &pass_.sequences, &pass_.last_rows})
    values->clear();
}

}  // namespace lema
