// Generator: replies to prompts, token by token, several at once. Chat and `lema eval --task match`
// call it; the model is behind Inference.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "generate/inference.h"
#include "generate/sampler.h"

namespace lema {

struct GenerateOptions {
  int64_t max_new_tokens = 512;
  std::vector<int64_t> stop_ids;  // a reply ends with the first of these
  SamplerOptions sampler;
};

enum class Finish { Stop, Length, Interrupted };
// "stop", "length", "interrupted".
std::string_view name(Finish finish);

struct Reply {
  std::vector<int32_t> ids;  // the stop token included
  Finish finish = Finish::Length;
  // Without the stop token.
  std::span<const int32_t> text_ids() const {
    return {ids.data(), ids.size() - (finish == Finish::Stop ? 1 : 0)};
  }
};

class Generator {
 public:
  // `inference` outlives the generator.
  Generator(Inference& inference, const GenerateOptions& options);

  // Called with each token of prompt number `prompt`, the stop token included; false ends that
  // reply as Interrupted.
  using OnToken = std::function<bool(int64_t prompt, int32_t id)>;

  // Called when a reply is complete; may throw.
  using OnReply = std::function<void(int64_t prompt)>;

  // A reply per prompt. As many run at once as the inference has sequences; a finished one hands
  // its place to the next prompt. What a place's cache and its next prompt have in common from the
  // start is not computed again, so a growing conversation costs what is added. A reply ends at
  // max_new_tokens or where the context ends. Usage error for an empty prompt and for one that
  // leaves no room for a token.
  std::vector<Reply> generate(std::span<const std::vector<int32_t>> prompts,
                              const OnToken& on_token = {}, const OnReply& on_reply = {});

 private:
  // A place in the cache: whose reply it is working on, and what to feed next.
  struct Place {
    int64_t prompt = -1;  // -1: free
    int64_t room = 0;     // tokens still allowed
    std::span<const int32_t> feed;
    int32_t last_id = 0;
  };
  void start(size_t place, int64_t index, std::span<const int32_t> prompt);
  // Takes the next token; returns whether the reply is complete.
  bool take(Place& place, Reply& reply, int32_t id, const OnToken& on_token) const;

  Inference& inference_;
  GenerateOptions options_;
  Sampler sampler_;
  std::vector<Place> places_;
};

}  // namespace lema
