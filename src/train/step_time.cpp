// Calls that take long are measured first: the budget goes where it matters.
#include "train/step_time.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace lema {
namespace {

// A guess, in no unit, of what a call takes.
double cost(const KernelCall& call) {
  constexpr double kFlopsPerByte = 10;  // about what a CPU does while it moves one
  return call.flops() + kFlopsPerByte * call.bytes();
}

}  // namespace

std::optional<StepTime> predict_step(const StepTrace& trace, MachineRates& rates, double budget,
                                     bool in_line, double read_rate) {
  std::vector<double> costs(trace.calls.size());  // in all
  for (const StepItem& item : trace.items)
    if (item.call >= 0)
      costs[static_cast<size_t>(item.call)] += cost(trace.calls[static_cast<size_t>(item.call)]);
  std::vector<size_t> order(costs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return costs[a] > costs[b]; });
  std::vector<KernelCall> longest_first;
  for (const size_t call : order) longest_first.push_back(trace.calls[call]);
  rates.measure(longest_first, budget);
  std::vector<double> seconds;
  for (const KernelCall& call : trace.calls) {
    const std::optional<double> one = rates.seconds(call);
    if (!one) return std::nullopt;
    seconds.push_back(*one);
  }

  StepTime time;
  const double copy_rate = rates.copy_rate();
  std::vector<TraceItem> timed;
  for (const StepItem& item : trace.items) {
    TraceItem& work = timed.emplace_back(item.item);
    if (item.call >= 0) {
      work.seconds = seconds[static_cast<size_t>(item.call)];
    } else if (item.is_read()) {
      work.seconds = static_cast<double>(item.bytes) / read_rate;
      time.disk += work.seconds;
    } else {
      work.seconds = static_cast<double>(item.bytes) / copy_rate;
    }
  }
  const PassTime pass = simulate(timed, in_line);
  time.seconds = pass.seconds;
  time.stall = pass.stall;
  return time;
}

}  // namespace lema
