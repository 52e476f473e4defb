// The cache of measurements and what to do without one.
#include "train/machine_rates.h"

#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>

#include "core/build_id.h"
#include "core/error.h"
#include "core/folder.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/system_calls.h"
#include "core/thread_pool.h"
#include "formats/json.h"

namespace lema {
namespace {

constexpr int kRounds = 3;  // of measuring
constexpr int64_t kMaxCacheBytes = int64_t{16} << 20;
constexpr const char* kCopy = "copy to the device";
constexpr const char* kReads = " reads of ";

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown CPU";
}

fs::path cache_folder() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache)
    return fs::path(cache) / "lema";
  const char* home = std::getenv("HOME");
  return home && *home ? fs::path(home) / ".cache" / "lema" : fs::path();
}

// What the time of two calls of a kernel is in proportion to.
double work_of(const KernelCall& call) { return call.flops() > 0 ? call.flops() : call.bytes(); }

// Of calls that one stands in for another: kernel and dtype, what stands before the sizes.
std::string kind_of(const std::string& key) {
  size_t end = key.find(' ');
  while (end != std::string::npos && !std::isdigit(static_cast<unsigned char>(key[end + 1])))
    end = key.find(' ', end + 1);
  return key.substr(0, end);
}

// A folder's name and its disk: another may come under the same name.
std::string place_of(const ModelFolder& folder) {
  const std::string path = fs::absolute(folder.path()).string();
  struct stat st = {};
  sys::stat(path.c_str(), &st);
  return fmt::format("{} on device {}", path, st.st_dev);
}

}  // namespace

MachineRates::MachineRates(const Backend& backend, int threads)
    : bench_(backend, threads),
      machine_(fmt::format("{} {}, {} threads, build {}", backend.device->name(), cpu_name(),
                           threads > 0 ? threads : available_cpus(),
                           build_id().substr(0, 16))) {
  const fs::path folder = cache_folder();
  if (folder.empty()) return;
  path_ = folder / fmt::format("rates-{}.json", sha256(machine_).substr(0, 16));
  if (!fs::is_regular_file(path_)) return;
  try {
    const Value cached = parse_json(read_text(path_, kMaxCacheBytes), path_.string());
    const Value* calls = cached.find("calls");
    if (!calls) fail(ErrorCode::BadInput, "it has no \"calls\"");
    for (const auto& [key, entry] : calls->as_object()) {
      const Known known = {entry.as_array().at(0).as_number(), entry.as_array().at(1).as_number()};
      const bool is_read = key.find(kReads) != std::string::npos;  // of nothing takes no time
      if (!std::isfinite(known.seconds) || known.seconds < 0 || (known.seconds == 0 && !is_read) ||
          !std::isfinite(known.work) || known.work < 0)
        fail(ErrorCode::BadInput, "{} takes {} s for a work of {}", key, known.seconds, known.work);
      known_[key] = known;
    }
  } catch (const std::exception& error) {
    log::warn("{}: not a cache of rates, measured anew: {}", path_.string(), error.what());
    known_.clear();
  }
}

void MachineRates::measure(std::span<const KernelCall> calls, double budget) {
  if (budget <= 0) return;
  std::map<std::string, std::vector<double>> runs;  // of what is new
  for (int round = 0; round < kRounds; ++round) {
    for (const KernelCall& call : calls) {
      const std::string key = call.key();
      if (known_.contains(key) && !runs.contains(key)) continue;
      if (spent_ >= budget) {
        if (round > 0) continue;
        if (const std::optional<double> guess = by_work(call)) {
          guessed_[key] = *guess;
          continue;
        }
      }
      std::vector<double>& seconds = runs[key];
      if (std::ssize(seconds) > round) continue;  // it came before
      seconds.push_back(run(call));
      const auto middle = seconds.begin() + (std::ssize(seconds) - 1) / 2;  // of two the shorter
      std::nth_element(seconds.begin(), middle, seconds.end());
      known_[key] = {*middle, work_of(call)};
      is_new_ = true;
    }
  }
}

std::optional<double> MachineRates::seconds(const KernelCall& call) const {
  const std::string key = call.key();
  if (const auto found = known_.find(key); found != known_.end()) return found->second.seconds;
  if (const auto found = guessed_.find(key); found != guessed_.end()) return found->second;
  return std::nullopt;
}

double MachineRates::run(const KernelCall& call) {
  const auto start = std::chrono::steady_clock::now();
  const double seconds = bench_.seconds(call);
  spent_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return seconds;
}

std::optional<double> MachineRates::by_work(const KernelCall& call) const {
  const std::string kind = kind_of(call.key());
  const double work = work_of(call);
  std::optional<double> seconds;
  double nearest = 0;
  for (auto it = known_.lower_bound(kind); it != known_.end() && it->first.starts_with(kind);
       ++it) {
    const Known& known = it->second;
    if (kind_of(it->first) != kind || known.work <= 0 || work <= 0) continue;
    const double likeness = std::min(work, known.work) / std::max(work, known.work);
    if (likeness <= nearest) continue;
    nearest = likeness;
    seconds = known.seconds * work / known.work;
  }
  return seconds;
}

double MachineRates::copy_rate() {
  Known& known = known_[kCopy];
  if (known.seconds == 0) {
    known = {1 / bench_.copy_rate(), 1};
    is_new_ = true;
  }
  return 1 / known.seconds;
}

std::optional<double> MachineRates::read_rate(const ModelFolder& folder, DiskMode mode,
                                              bool cached, double budget) {
  const std::string key =
      fmt::format("{}{}{}{}", cached ? "cached " : "", name(mode), kReads, place_of(folder));
  const auto found = known_.find(key);
  if (found != known_.end()) return 1 / found->second.seconds;
  if (budget <= 0) return std::nullopt;
  const double rate = disk_rate(folder, mode, cached);
  known_[key] = {1 / rate, 1};
  is_new_ = true;
  return rate;
}

void MachineRates::save() const {
  if (!is_new_ || path_.empty()) return;
  Value calls = Value::Object();
  std::map<std::string, Known> all = known_;
  all.insert(before_.begin(), before_.end());
  for (const auto& [key, known] : all)
    calls.set(key, Value::Array{Value(known.seconds), Value(known.work)});
  const Value cache =
      Value::Object{{"machine", machine_},
                    {"calls_are", "seconds, and the flops or bytes that they are in proportion to"},
                    {"calls", std::move(calls)}};
  try {
    create_folders(path_.parent_path());
    write_file(path_, dump_json(cache, 1) + "\n");
  } catch (const Error& error) {
    log::warn("rates are not kept: {}", error.what());
  }
}

}  // namespace lema
