// Calls that take long are measured first: the budget goes where it matters.
#include "train/step_time.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace lema {
namespace {

// A guess, in no unit, of what a call takes.
double cost(const KernelCall& call) {
  constexpr double kFlopsPerByte = 10;  // about what a CPU does while it moves one
  return call.flops() + kFlopsPerByte * call.bytes();
}

}  // namespace

std::optional<StepTime> predict_step(const StepTrace& trace, MachineRates& rates, double budget,
                                     bool in_line, const DiskReads& reads) {
  StepTime time;
  for (const KernelCall& call : trace.calls) time.shares.push_back({call, 0, 0});
  bool copies = false;
  for (const StepItem& item : trace.items) {
    if (item.call >= 0) ++time.shares[static_cast<size_t>(item.call)].count;
    copies = copies || (item.bytes > 0 && item.item.lane != Lane::Disk);
  }
  std::vector<std::pair<double, size_t>> costs;
  for (size_t i = 0; i < time.shares.size(); ++i)
    costs.emplace_back(cost(trace.calls[i]) * static_cast<double>(time.shares[i].count), i);
  std::sort(costs.begin(), costs.end(), std::greater<>());
  std::vector<KernelCall> calls;
  for (const auto& [unused, i] : costs) calls.push_back(trace.calls[i]);
  rates.measure(calls, budget);
  for (StepTime::Share& share : time.shares) {
    const std::optional<double> seconds = rates.seconds(share.call);
    if (!seconds) return std::nullopt;
    share.seconds = *seconds;
  }

  const double copy_rate = copies ? rates.copy_rate() : 1;
  std::vector<TraceItem> timed;
  for (const StepItem& item : trace.items) {
    TraceItem& work = timed.emplace_back(item.item);
    if (item.call >= 0) {
      work.seconds = time.shares[static_cast<size_t>(item.call)].seconds;
    } else if (work.lane == Lane::Disk) {
      work.seconds = static_cast<double>(item.bytes) / reads.rate;
      time.disk += work.seconds;
      if (reads.by_cpu && work.kind == TraceItem::Kind::Work) work.lane = Lane::Host;
    } else {
      work.seconds = static_cast<double>(item.bytes) / copy_rate;
    }
  }
  const PassTime pass = simulate(timed, in_line);
  time.seconds = pass.seconds;
  time.stall = pass.stall;
  const auto in_all = [](const StepTime::Share& share) {
    return share.seconds * static_cast<double>(share.count);
  };
  std::sort(time.shares.begin(), time.shares.end(),
            [&](const auto& a, const auto& b) { return in_all(a) > in_all(b); });
  return time;
}

}  // namespace lema
