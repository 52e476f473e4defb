// Inference and the generator on tiny random models: a cache gives what a fresh pass gives,
// sequences do not see each other, and memory does not grow with tokens.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/file.h"
#include "core/memory.h"
#include "generate/generator.h"
#include "generate/row_logits.h"
#include "generate/row_losses.h"
#include "model/adapter_parameters.h"
#include "support/catch.h"
#include "support/inference_case.h"
#include "support/late_device.h"

using namespace lema;
using test::dataset_of, test::ids_from, test::TinyModel;

namespace {

const OpenOptions kF32{{}, "f32", 1};

std::vector<float> row(const MatrixView& logits, int64_t i) {
  const auto* begin = static_cast<const float*>(logits.row_range(i, logits.rows).data);
  return {begin, begin + logits.cols};
}

// Logits after the last of these tokens, from an empty cache in one pass.
std::vector<float> fresh_logits(const ModelFolder& folder, const std::vector<int32_t>& ids) {
  Inference inference(folder, kF32, 1, 128);
  return row(inference.append(std::vector<Feed>{{0, ids}}), 0);
}

// A device that has copies of the weights, as a GPU has, with room for that many bytes of them.
std::unique_ptr<Device> late_device(int64_t vram) {
  auto device = std::make_unique<test::LateDevice>();
  device->set_free_bytes(vram);
  return device;
}
OpenOptions placed(OpenOptions options, int64_t vram, int64_t ram) {
  options.backend = [=](const std::string&) { return Backend{late_device(vram), cpu_ops()}; };
  options.ram_bytes = ram;
  return options;
}

// An adapter of random values, in the folder "adapter" beside the model.
void save_adapter(const TinyModel& model, const AdapterOptions& options) {
  const std::unique_ptr<Device> device = make_cpu_device();
  AdapterParameters parameters(make_piece_table(model.folder), options);
  parameters.allocate(*device, false);
  for (int64_t i = 0; i < parameters.parameter_count(); ++i)
    static_cast<float*>(parameters.values().data)[i] =
        uniform(philox(3, RngStream::AdapterInit, static_cast<uint64_t>(i))[0]) - 0.5f;
  const fs::path path = model.temp.path() / "adapter";
  fs::create_directory(path);
  write_adapter(path, parameters.to_adapter("base"));
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i)
    worst = std::max(worst, std::abs(double{a[i]} - double{b[i]}));
  return worst;
}

double log_probability(const std::vector<float>& logits, int32_t id) {
  double sum = 0;
  for (float x : logits) sum += std::exp(double{x});
  return double{logits[static_cast<size_t>(id)]} - std::log(sum);
}

}  // namespace

TEST_CASE("inference: token by token equals one pass, and both equal the pass without a cache") {
  const auto family = GENERATE(Family::Llama, Family::Gpt2);
  const TinyModel model("inference_cache", {family, 3, DType::F32, family == Family::Gpt2});
  const std::vector<int32_t> ids = ids_from(1, 70);

  // The path without a cache gives log-probabilities of the row's tokens.
  const Dataset dataset = dataset_of({ids});
  const std::vector<float> losses =
      row_losses(model.folder, kF32, dataset, [](int64_t) {}).at(0).losses;

  Inference inference(model.folder, kF32, 1, 128);
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    const std::vector<float> logits =
        row(inference.append(std::vector<Feed>{{0, {&ids[i], 1}}}), 0);
    CHECK(std::abs(log_probability(logits, ids[i + 1]) + double{losses[i]}) < 1e-4);
    if (i % 23 == 0 || i == 63) {
      const std::vector<int32_t> prefix(ids.begin(),
                                        ids.begin() + static_cast<std::ptrdiff_t>(i) + 1);
      CHECK(largest_difference(logits, fresh_logits(model.folder, prefix)) < 1e-4);
    }
  }
}

// On a device that has copies of the weights, as a GPU has: what it cannot hold is streamed, what
// host memory cannot hold either comes from disk.
TEST_CASE("inference: the same bits wherever the weights lie") {
  const auto family = GENERATE(Family::Llama, Family::Gpt2);
  const TinyModel model("inference_placement", {family, 5, DType::BF16, family == Family::Gpt2});
  const std::vector<int32_t> first = ids_from(1, 40), second = ids_from(2, 7), one = {5};
  const Dataset dataset = dataset_of({ids_from(3, 9), ids_from(4, 70)});
  const fs::path path = model.temp.path() / "logits.safetensors";
  int64_t copied_bytes = 0;  // in two passes
  const auto results = [&](const OpenOptions& options) {
    Inference inference(model.folder, options, 2, 64);
    std::vector<float> all = row(inference.append(std::vector<Feed>{{0, first}, {1, second}}), 1);
    for (const float x : row(inference.append(std::vector<Feed>{{1, one}}), 0)) all.push_back(x);
    copied_bytes = inference.model().stream().h2d_bytes();
    for (const RowLoss& loss : row_losses(model.folder, options, dataset, [](int64_t) {}))
      all.insert(all.end(), loss.losses.begin(), loss.losses.end());
    write_row_logits(model.folder, options, dataset, path, [](int64_t) {});
    for (const char byte : read_text(path, 1 << 20)) all.push_back(byte);
    return all;
  };
  const std::vector<float> expected = results(kF32);
  const PlanRequest whole = weights_request(make_piece_table(model.folder), *late_device(1));
  const int64_t page_tables = whole.pinned_weights / whole.pinned_per_device_byte;
  int64_t all = 0, largest = 0;
  for (const int64_t bytes : whole.unit_bytes) {
    all += bytes;
    largest = std::max(largest, bytes);
  }
  for (const int64_t weights : {2 * largest, 4 * largest, all}) {
    const int64_t vram = weights + page_tables;
    for (const int64_t ram :
         {2 * whole.pinned_weights, whole.pinned_weights - 1, whole.pinned_weights * 3 / 4}) {
      INFO(fmt::format("{} of {} bytes on the device, {} of {} in host memory", vram, all, ram,
                       whole.pinned_weights));
      CHECK(results(placed(kF32, vram, ram)) == expected);
      CHECK((copied_bytes > 0) == (weights < all));
    }
  }
  CHECK(results(placed(kF32, all + page_tables, 0)) == expected);  // RAM: what the machine has
  CHECK(contains(
      message_of(ErrorCode::DoesNotFit, [&] { results(placed(kF32, 2 * largest, 0)); }),
      "are left for weights, which need"));
  CHECK(contains(message_of(ErrorCode::DoesNotFit, [&] { results(placed(kF32, 2 * all, 1)); }),
                 "of host memory and --ram is 1 B; set it to at least "));
}

// What an adapter has in the place of embedding and head, or beside them, and rows of the embedding
// that are read for each pass.
TEST_CASE("inference: an adapter of the ends gives the same bits wherever the weights lie") {
  AdapterOptions settings;
  settings.config.rank = 4;
  if (GENERATE(false, true))
    settings.config.modules_to_save = {"embed_tokens", "lm_head"};
  else
    settings.targets = {"embed_tokens", "q_proj", "lm_head"};
  const TinyModel model("inference_adapter", {Family::Llama, 5, DType::BF16});
  save_adapter(model, settings);
  const std::vector<int32_t> first = ids_from(1, 40), second = ids_from(2, 7);
  int64_t copied_bytes = 0;
  const auto results = [&](OpenOptions options) {
    options.adapter = model.temp.path() / "adapter";
    Inference inference(model.folder, options, 1, 64);
    std::vector<float> all = row(inference.append(std::vector<Feed>{{0, first}}), 0);
    for (const float x : row(inference.append(std::vector<Feed>{{0, second}}), 0)) all.push_back(x);
    copied_bytes = inference.model().stream().h2d_bytes();
    return all;
  };
  const std::vector<float> expected = results(kF32);
  const PlanRequest whole = weights_request(make_piece_table(model.folder), *late_device(1));
  for (const int64_t vram : {whole.pinned_weights / 2, 2 * whole.pinned_weights})
    for (const int64_t ram : {2 * whole.pinned_weights, whole.pinned_weights / 2}) {
      INFO(fmt::format("{} bytes on the device, {} in host memory", vram, ram));
      CHECK(results(placed(kF32, vram, ram)) == expected);
      CHECK((copied_bytes > 0) == (vram < whole.pinned_weights));
    }
}

// What a pass over whole prompts gives, whatever the cache held before them.
TEST_CASE("inference: a cached prefix is used only where its keys are rotated as the prompt's") {
  const test::TinyModelOptions options = GENERATE(test::tiny_qwen3(), test::tiny_phi3());
  const TinyModel model("inference_rotations", options);
  const bool is_longrope = model.folder.config().rope.kind == RopeConfig::Kind::LongRope;
  const std::vector<int32_t> ids = ids_from(8, 30);
  const std::span<const int32_t> all(ids);
  Inference inference(model.folder, kF32, 1, 64);
  for (const size_t length : {10, 14, 20, 29, 16, 15, 17}) {
    const auto prompt = all.first(length);
    const int64_t kept = inference.keep_common(0, prompt);
    INFO(length << " tokens, " << kept << " kept");
    CHECK(kept == (length == 14 ? 10 : length == 15 ? 14 : length == 29 && is_longrope ? 20 : 0));
    const std::vector<float> logits =
        row(inference.append(std::vector<Feed>{{0, prompt.subspan(static_cast<size_t>(kept))}}), 0);
    CHECK(largest_difference(logits, fresh_logits(model.folder, {prompt.begin(), prompt.end()})) <
          1e-4);
  }
}

TEST_CASE("inference: a reply that outgrows the short range of longrope is computed again") {
  const TinyModel model("inference_longrope", test::tiny_phi3());
  const std::vector<int32_t> ids = ids_from(9, 24), other = ids_from(10, 24);
  Inference inference(model.folder, kF32, 2, 64);
  for (size_t i = 0; i < ids.size(); ++i) {
    const MatrixView logits =
        inference.append(std::vector<Feed>{{0, {&ids[i], 1}}, {1, {&other[i], 1}}});
    const auto end = static_cast<std::ptrdiff_t>(i) + 1;
    CHECK(largest_difference(row(logits, 0),
                             fresh_logits(model.folder, {ids.begin(), ids.begin() + end})) < 1e-4);
    CHECK(largest_difference(row(logits, 1),
                             fresh_logits(model.folder, {other.begin(), other.begin() + end})) <
          1e-4);
  }
}

TEST_CASE("row logits: the file is there when it is whole, and nothing is after an interruption") {
  const TinyModel model("row_logits", {});
  const Dataset dataset = dataset_of({ids_from(0, 5), ids_from(1, 5), ids_from(2, 5)});
  const fs::path path = model.temp.path() / "out" / "logits.safetensors";
  fs::create_directory(path.parent_path());
  const auto write = [&](int64_t rows) {
    write_row_logits(model.folder, kF32, dataset, path, [&](int64_t done) {
      CHECK_FALSE(fs::exists(path));
      if (done == rows) fail(ErrorCode::InterruptedEmpty, "stopped");
    });
  };
  message_of(ErrorCode::InterruptedEmpty, [&] { write(2); });
  CHECK(fs::is_empty(path.parent_path()));
  write(9);
  const SafetensorsFile file(path);
  CHECK(file.tensors().size() == 3);
}

TEST_CASE("inference: sequences of one batch do not see each other") {
  const TinyModel model("inference_batch", {});
  const std::vector<std::vector<int32_t>> prompts = {ids_from(2, 5), ids_from(3, 33),
                                                     ids_from(4, 1)};
  Inference inference(model.folder, kF32, 3, 64);
  MatrixView logits =
      inference.append(std::vector<Feed>{{2, prompts[2]}, {0, prompts[0]}, {1, prompts[1]}});
  CHECK(largest_difference(row(logits, 0), fresh_logits(model.folder, prompts[2])) < 1e-4);
  CHECK(largest_difference(row(logits, 1), fresh_logits(model.folder, prompts[0])) < 1e-4);
  CHECK(largest_difference(row(logits, 2), fresh_logits(model.folder, prompts[1])) < 1e-4);

  // One goes on, one is taken back, one begins again.
  inference.truncate(1, 10);
  inference.truncate(2, 0);
  const std::vector<int32_t> more = ids_from(5, 3);
  const auto after = [&](const std::vector<int32_t>& ids, int64_t keep) {
    std::vector<int32_t> all(ids.begin(), ids.begin() + keep);
    all.insert(all.end(), more.begin(), more.end());
    return fresh_logits(model.folder, all);
  };
  logits = inference.append(std::vector<Feed>{{0, more}, {1, more}, {2, more}});
  CHECK(largest_difference(row(logits, 0), after(prompts[0], 5)) < 1e-4);
  CHECK(largest_difference(row(logits, 1), after(prompts[1], 10)) < 1e-4);
  CHECK(largest_difference(row(logits, 2), after(prompts[2], 0)) < 1e-4);
}

TEST_CASE("inference: a prompt of several passes equals its halves") {
  const TinyModel model("inference_passes", {}, 4096);
  const std::vector<int32_t> ids = ids_from(6, 2500);
  Inference whole(model.folder, kF32, 1, 3000), halves(model.folder, kF32, 1, 3000);
  CHECK(whole.model().limits().tokens < 2500);
  const std::vector<float> expected = row(whole.append(std::vector<Feed>{{0, ids}}), 0);
  const std::span<const int32_t> all(ids);
  halves.append(std::vector<Feed>{{0, all.first(700)}});
  CHECK(largest_difference(row(halves.append(std::vector<Feed>{{0, all.subspan(700)}}), 0),
                           expected) < 1e-4);
}

TEST_CASE("inference: feeds that end in different passes keep their order") {
  const TinyModel model("inference_feeds", {}, 1024);
  std::vector<std::vector<int32_t>> prompts;
  for (int64_t i = 0; i < 3; ++i) prompts.push_back(ids_from(70 + i, 700));
  Inference together(model.folder, kF32, 3, 800);
  const MatrixView logits =
      together.append(std::vector<Feed>{{0, prompts[0]}, {1, prompts[1]}, {2, prompts[2]}});
  REQUIRE(logits.rows == 3);
  for (int64_t i = 0; i < 3; ++i) {
    Inference alone(model.folder, kF32, 1, 800);
    const MatrixView expected =
        alone.append(std::vector<Feed>{{0, prompts[static_cast<size_t>(i)]}});
    CHECK(largest_difference(row(logits, i), row(expected, 0)) < 1e-4);
  }
}

TEST_CASE("inference: bf16 activations stay near f32") {
  test::TinyModelOptions options =
      GENERATE(test::TinyModelOptions(), test::tiny_qwen3(), test::tiny_phi3());
  options.dtype = DType::BF16;
  options.tied_head = true;
  const TinyModel model("inference_bf16", options);
  const std::vector<int32_t> ids = ids_from(7, 40);
  Inference inference(model.folder, {{}, "bf16", 1}, 1, 64);
  CHECK(inference.model().activation_dtype() == DType::BF16);
  const std::vector<float> logits = row(inference.append(std::vector<Feed>{{0, ids}}), 0);
  CHECK(largest_difference(logits, fresh_logits(model.folder, ids)) < 0.1);
}

TEST_CASE("inference: a context beyond the model's positions is refused") {
  const TinyModel model("inference_context", {});
  const std::string message =
      message_of(ErrorCode::Usage, [&] { Inference(model.folder, kF32, 1, 129); });
  CHECK(contains(message, "129"));
  CHECK(contains(message, "128"));
}

TEST_CASE("generator: batched replies equal single ones, in any number of places") {
  const TinyModel model("generator_batch", {});
  std::vector<std::vector<int32_t>> prompts;
  for (int64_t i = 0; i < 7; ++i) prompts.push_back(ids_from(10 + i, 3 + 5 * i % 17));
  GenerateOptions options{20, {}, {}};
  // Ids that some replies reach and others do not, so that lengths differ.
  for (int64_t id = 0; id < testing::kTinyVocabulary; id += 17) options.stop_ids.push_back(id);

  std::vector<Reply> single;
  for (const auto& prompt : prompts) {
    Inference inference(model.folder, kF32, 1, 64);
    single.push_back(Generator(inference, options).generate({&prompt, 1}).at(0));
  }
  const bool all_stop = std::all_of(single.begin(), single.end(),
                                    [](const Reply& r) { return r.finish == Finish::Stop; });
  CHECK_FALSE(all_stop);
  CHECK(std::any_of(single.begin(), single.end(),
                    [](const Reply& r) { return r.finish == Finish::Stop; }));
  for (int64_t places : {1, 3, 7}) {
    Inference inference(model.folder, kF32, places, 64);
    int64_t finished = 0;
    const std::vector<Reply> batched =
        Generator(inference, options).generate(prompts, {}, [&](int64_t) { ++finished; });
    CHECK(finished == 7);
    for (size_t i = 0; i < prompts.size(); ++i) {
      CHECK(batched[i].ids == single[i].ids);
      CHECK(batched[i].finish == single[i].finish);
    }
  }
}

TEST_CASE("generator: what a conversation repeats is not computed again") {
  const TinyModel model("generator_prefix", {});
  Inference inference(model.folder, kF32, 1, 128);
  Generator generator(inference, {6, {}, {}});
  std::vector<int32_t> conversation = ids_from(20, 12);
  for (int turn = 0; turn < 3; ++turn) {
    const Reply reply = generator.generate({&conversation, 1}).at(0);
    Inference fresh(model.folder, kF32, 1, 128);
    CHECK(reply.ids == Generator(fresh, {6, {}, {}}).generate({&conversation, 1}).at(0).ids);
    // The last token is returned and not fed.
    CHECK(std::ssize(inference.cached_ids(0)) == std::ssize(conversation) + 5);
    conversation.insert(conversation.end(), reply.ids.begin(), reply.ids.end());
    const std::vector<int32_t> user = ids_from(30 + turn, 4);
    conversation.insert(conversation.end(), user.begin(), user.end());
  }
}

TEST_CASE("generator: ends at a stop token, at the limit, at the context's end and on demand") {
  const TinyModel model("generator_ends", {});
  const std::vector<int32_t> prompt = ids_from(40, 10);
  Inference inference(model.folder, kF32, 1, 24);
  const auto generate = [&](const GenerateOptions& options,
                            const Generator::OnToken& on_token = {}) {
    return Generator(inference, options).generate({&prompt, 1}, on_token).at(0);
  };
  const Reply free = generate({8, {}, {}});
  CHECK(free.ids.size() == 8);
  CHECK(free.finish == Finish::Length);
  CHECK(generate({100, {}, {}}).ids.size() == 14);

  const Reply stopped = generate({8, {int64_t{free.ids[3]}}, {}});
  const auto first = std::find(free.ids.begin(), free.ids.end(), free.ids[3]);
  CHECK(stopped.finish == Finish::Stop);
  CHECK(stopped.ids == std::vector<int32_t>(free.ids.begin(), first + 1));
  CHECK(stopped.text_ids().size() + 1 == stopped.ids.size());

  int64_t seen = 0;
  const Reply interrupted = generate({8, {}, {}}, [&](int64_t, int32_t) { return ++seen < 3; });
  CHECK(interrupted.finish == Finish::Interrupted);
  CHECK(interrupted.ids.size() == 3);
}

TEST_CASE("generator: refuses a prompt without tokens or without room") {
  const TinyModel model("generator_refuses", {});
  Inference inference(model.folder, kF32, 1, 24);
  Generator generator(inference, {8, {}, {}});
  const auto refusal = [&](int64_t length) {
    const std::vector<int32_t> prompt = ids_from(50, length);
    return message_of(ErrorCode::Usage, [&] { generator.generate({&prompt, 1}); });
  };
  CHECK(contains(refusal(0), "no tokens"));
  CHECK(contains(refusal(24), "24 tokens"));
}

TEST_CASE("generator: memory is flat over 1000 tokens") {
  const TinyModel model("generator_memory", {}, 2048);
  Inference inference(model.folder, kF32, 1, 1200);
  Generator generator(inference, {1001, {}, {1, 0, 0.9, 1}});
  const std::vector<int32_t> prompt = ids_from(60, 10);
  int64_t count = 0, allocations = 0, before = 0;
  const Reply reply = generator
                          .generate({&prompt, 1},
                                    [&](int64_t, int32_t) {
                                      if (++count == 10) {
                                        allocations = inference.model().device().allocation_count();
                                        before = resident_memory().total;
                                      }
                                      return true;
                                    })
                          .at(0);
  CHECK(reply.ids.size() == 1001);
  CHECK(inference.model().device().allocation_count() == allocations);
#ifdef LEMA_SANITIZED
  constexpr int64_t kMost = int64_t{16} << 20;  // its allocator keeps freed blocks
#else
  constexpr int64_t kMost = int64_t{1} << 20;
#endif
  CHECK(resident_memory().total - before <= kMost);
}
