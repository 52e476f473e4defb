// How fast one core encodes: bench_tokenizer TEXT_FILE MODEL_FOLDER... prints, per folder, the time
// to load its tokenizer and megabytes of text per second, line by line and as one text. Run by hand
// (target bench_tokenizer); the bar is 5 MB/s for every kind of tokenizer.
#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "data/model_text.h"

using namespace lema;

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The best of three passes over `parts`, in MB/s.
double rate(const Tokenizer& tokenizer, const std::vector<std::string_view>& parts) {
  double best = 0;
  for (int pass = 0; pass < 3; ++pass) {
    size_t bytes = 0, tokens = 0;
    const auto start = std::chrono::steady_clock::now();
    for (const std::string_view part : parts) {
      bytes += part.size() + 1;
      tokens += tokenizer.encode(part, false).ids.size();
    }
    const double speed = static_cast<double>(bytes) / 1e6 / seconds_since(start);
    if (tokens > 0 && speed > best) best = speed;
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: bench_tokenizer TEXT_FILE MODEL_FOLDER...\n");
    return 2;
  }
  const std::string text = read_text(argv[1], int64_t{1} << 28);
  std::vector<std::string_view> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(std::string_view(text).substr(at, end - at));
    at = end + 1;
  }
  for (int i = 2; i < argc; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const ModelText model(read_text_sources(argv[i]));
    const double load = seconds_since(start);
    std::printf("%-40s load %5.2f s  lines %6.1f MB/s  whole %6.1f MB/s\n", argv[i], load,
                rate(model.tokenizer(), lines), rate(model.tokenizer(), {std::string_view(text)}));
  }
}
