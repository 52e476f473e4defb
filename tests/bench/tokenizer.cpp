// How fast one core encodes: bench_tokenizer TEXT_FILE MODEL_FOLDER... prints, per folder, the time
// to load its tokenizer and megabytes of text per second, line by line and as one text. Run by hand
// (target bench_tokenizer); the bar is 5 MB/s for every kind of tokenizer.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "data/model_text.h"

using namespace lema;

namespace {

// Processor time, so that other work on the machine does not count.
double seconds_since(std::clock_t start) {
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

// The best of three passes over `parts`, in MB/s.
double rate(const Tokenizer& tokenizer, const std::vector<std::string_view>& parts) {
  double best = 0;
  for (int pass = 0; pass < 3; ++pass) {
    size_t bytes = 0, tokens = 0;
    const auto start = std::clock();
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
    const auto start = std::clock();
    const ModelText model(read_text_sources(argv[i]));
    const double load = seconds_since(start);
    std::printf("%-40s load %5.2f s  lines %6.1f MB/s  whole %6.1f MB/s\n", argv[i], load,
                rate(model.tokenizer(), lines), rate(model.tokenizer(), {std::string_view(text)}));
  }
}
