// The generation loop: one pass over the model per round, for new prompts and running replies
// alike.
#include "generate/generator.h"

#include <algorithm>

namespace lema {

std::string_view name(Finish finish) {
  return finish == Finish::Stop ? "stop" : finish == Finish::Length ? "length" : "interrupted";
}

Generator::Generator(Inference& inference, const GenerateOptions& options)
    : inference_(inference),
      options_(options),
      sampler_(options.sampler),
      places_(static_cast<size_t>(inference.sequences())) {
  if (options.max_new_tokens < 1)
    fail(ErrorCode::Usage, "max_new_tokens is {}, expected 1 or more", options.max_new_tokens);
}

std::vector<Reply> Generator::generate(std::span<const std::vector<int32_t>> prompts,
                                       const OnToken& on_token, const OnReply& on_reply) {
  std::vector<Reply> replies(prompts.size());
  std::vector<Feed> feeds;
  std::vector<size_t> fed;  // the place of each feed
  std::fill(places_.begin(), places_.end(), Place());
  size_t next = 0;
  while (true) {
    feeds.clear();
    fed.clear();
    for (size_t p = 0; p < places_.size(); ++p) {
      if (places_[p].prompt < 0 && next < prompts.size()) {
        start(p, static_cast<int64_t>(next), prompts[next]);
        ++next;
      }
      if (places_[p].prompt < 0) continue;
      feeds.push_back({static_cast<int64_t>(p), places_[p].feed});
      fed.push_back(p);
    }
    if (feeds.empty()) return replies;
    const MatrixView logits = inference_.append(feeds);
    for (size_t i = 0; i < fed.size(); ++i) {
      Place& place = places_[fed[i]];
      Reply& reply = replies[static_cast<size_t>(place.prompt)];
      const auto* row =
          static_cast<const float*>(logits.row_range(static_cast<int64_t>(i), logits.rows).data);
      const auto position = std::ssize(inference_.cached_ids(static_cast<int64_t>(fed[i])));
      const int32_t id =
          sampler_.pick({row, static_cast<size_t>(logits.cols)}, place.prompt, position);
      if (!take(place, reply, id, on_token)) continue;
      if (on_reply) on_reply(place.prompt);
      place.prompt = -1;
    }
  }
}

void Generator::start(size_t place, int64_t index, std::span<const int32_t> prompt) {
  const int64_t length = std::ssize(prompt), sequence = static_cast<int64_t>(place);
  if (prompt.empty()) fail(ErrorCode::Usage, "prompt {} has no tokens", index + 1);
  if (length >= inference_.capacity())
    fail(ErrorCode::Usage,
         "a prompt of {} tokens leaves no room for a reply in a context of {} (the model has {} "
         "positions)",
         length, inference_.capacity(), inference_.model().config().max_positions);
  // The last token is fed in any case: its logits are wanted.
  const int64_t common = inference_.keep_common(sequence, prompt);
  places_[place] = {index, std::min(options_.max_new_tokens, inference_.capacity() - length),
                    prompt.subspan(static_cast<size_t>(common)), 0};
}

bool Generator::take(Place& place, Reply& reply, int32_t id, const OnToken& on_token) const {
  reply.ids.push_back(id);
  place.last_id = id;
  place.feed = {&place.last_id, 1};
  --place.room;
  const bool stops =
      std::find(options_.stop_ids.begin(), options_.stop_ids.end(), id) != options_.stop_ids.end();
  const bool goes_on = !on_token || on_token(place.prompt, id);
  reply.finish = stops ? Finish::Stop : goes_on ? Finish::Length : Finish::Interrupted;
  return stops || !goes_on || place.room == 0;
}

}  // namespace lema
