// Calls that take long are measured first: the budget goes where it matters.
#include "train/step_time.h"

#include <algorithm>

namespace lema {

std::optional<StepTime> predict_step(const StepTrace& trace, MachineRates& rates, double budget,
                                     bool in_line) {
  std::vector<StepTime::Share> shares;
  for (const KernelCall& call : trace.calls) shares.push_back({call, 0, 0});
  bool copies = false;
  for (const StepItem& item : trace.items) {
    if (item.call >= 0) ++shares[static_cast<size_t>(item.call)].count;
    copies = copies || item.bytes > 0;
  }
  std::vector<size_t> order(shares.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  constexpr double kFlopsPerByte = 10;  // about what a CPU does while it moves one
  const auto cost = [&](size_t i) {
    const KernelCall& call = shares[i].call;
    return (call.flops() + kFlopsPerByte * call.bytes()) * static_cast<double>(shares[i].count);
  };
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return cost(a) > cost(b); });
  for (const size_t i : order)
    if (!rates.seconds(shares[i].call, budget)) return std::nullopt;
  rates.measure_again(budget);
  for (StepTime::Share& share : shares) {
    const std::optional<double> seconds = rates.seconds(share.call, budget);
    if (!seconds) return std::nullopt;
    share.seconds = *seconds;
  }

  const double copy_rate = copies ? rates.copy_rate() : 1;
  std::vector<TraceItem> timed;
  for (const StepItem& item : trace.items) {
    timed.push_back(item.item);
    timed.back().seconds = item.call >= 0 ? shares[static_cast<size_t>(item.call)].seconds
                                          : static_cast<double>(item.bytes) / copy_rate;
  }
  const PassTime pass = simulate(timed, in_line);
  std::sort(shares.begin(), shares.end(), [](const auto& a, const auto& b) {
    return a.seconds * static_cast<double>(a.count) > b.seconds * static_cast<double>(b.count);
  });
  return StepTime{pass.seconds, pass.stall, 0, std::move(shares)};
}

}  // namespace lema
