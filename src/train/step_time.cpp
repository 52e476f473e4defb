// Calls that take long are measured first: the budget goes where it matters.
#include "train/step_time.h"

#include <algorithm>

namespace lema {
namespace {

double in_all(const StepTime::Share& share) {
  return share.seconds * static_cast<double>(share.count);
}
bool is_longer(const StepTime::Share& a, const StepTime::Share& b) { return in_all(a) > in_all(b); }

// A guess, in no unit, of what a call takes.
double cost(const KernelCall& call) {
  constexpr double kFlopsPerByte = 10;  // about what a CPU does while it moves one
  return call.flops() + kFlopsPerByte * call.bytes();
}

}  // namespace

std::optional<StepTime> predict_step(const StepTrace& trace, MachineRates& rates, double budget,
                                     bool in_line, const DiskReads& reads) {
  StepTime time;
  for (const KernelCall& call : trace.calls) time.shares.push_back({call, 0, cost(call)});
  bool copies = false;
  for (const StepItem& item : trace.items) {
    if (item.call >= 0) ++time.shares[static_cast<size_t>(item.call)].count;
    copies = copies || (item.bytes > 0 && item.item.lane != Lane::Disk);
  }
  std::vector<StepTime::Share> order = time.shares;
  std::sort(order.begin(), order.end(), is_longer);
  std::vector<KernelCall> calls;
  for (StepTime::Share& share : order) calls.push_back(std::move(share.call));
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
  std::sort(time.shares.begin(), time.shares.end(), is_longer);
  return time;
}

}  // namespace lema
