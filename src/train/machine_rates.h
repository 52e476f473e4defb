// MachineRates: how long kernel calls and copies take on this machine. Measured once and kept in
// $XDG_CACHE_HOME/lema (else ~/.cache/lema), a file for each device, number of threads and build of
// lema. Read by the plan's prediction of step times; `lema bench` measures kernels and copies anew.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/file.h"
#include "stream/disk_files.h"
#include "train/kernel_bench.h"

namespace lema {

class MachineRates {
 public:
  // Reads what is cached; a cache that is missing or malformed is an empty one. `backend` outlives
  // the object.
  MachineRates(const Backend& backend, int threads);

  // Measures the calls that are not cached, in this order, in three rounds: what else a machine
  // does slows one second down and not the next. Once `budget` seconds have gone into measuring, a
  // call is taken by its work from a known one of the same kernel where there is one. Nothing with
  // no budget.
  void measure(std::span<const KernelCall> calls, double budget);
  // Of one call; nullopt where it is neither cached nor measured nor taken by its work.
  std::optional<double> seconds(const KernelCall& call) const;
  // Bytes a second of copies to the device, likewise cached.
  double copy_rate();
  // Of reads of a model (disk_rate), by its folder and the device that this lies on.
  std::optional<double> read_rate(const ModelFolder& folder, DiskMode mode, bool cached,
                                  double budget);
  // What is asked for from here on is measured again; the cache keeps the rest.
  void forget() {
    before_.merge(std::exchange(known_, {}));
    guessed_.clear();
  }
  // Writes the cache where something was measured. A cache that cannot be written is warned of.
  void save() const;

  const std::string& machine() const { return machine_; }
  const fs::path& path() const { return path_; }

 private:
  struct Known {
    double seconds = 0, work = 0;
  };
  double run(const KernelCall& call);
  std::optional<double> by_work(const KernelCall& call) const;

  KernelBench bench_;
  std::string machine_;  // "cpu Intel(R) Xeon(R) ..., 2 threads, build 0123456789abcdef"
  fs::path path_;
  std::map<std::string, Known> known_, before_;  // before_: and forgotten
  std::map<std::string, double> guessed_;        // seconds, by work
  double spent_ = 0;                             // seconds, measuring
  bool is_new_ = false;
};

}  // namespace lema
