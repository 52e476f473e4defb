// The simulator: cases worked out by hand, and bounds that every pass of a ring keeps.
#include <random>

#include "core/error.h"
#include "stream/schedule.h"
#include "stream/simulate.h"
#include "support/catch.h"

using namespace lema;

namespace {

constexpr double kDust = 1e-12;

// Seconds of one unit: to bring it from disk to the host (0: it lies there) and to the device, and
// to compute one visit.
struct UnitTime {
  double disk = 0, copy = 0, compute = 0;
};
// What LayerStream submits for a program.
std::vector<TraceItem> trace_of(const Program& program, std::span<const UnitTime> units,
                                int64_t slots) {
  using Kind = TraceItem::Kind;
  std::vector<TraceItem> trace;
  const auto copied = [](int64_t slot) { return slot; };
  const auto released = [slots](int64_t slot) { return slots + slot; };
  const auto read = [slots](int64_t slot) { return 2 * slots + slot; };
  for (const Instruction& i : program.instructions) {
    const UnitTime& unit = units[static_cast<size_t>(i.unit)];
    switch (i.kind) {
      case Instruction::Kind::Load:
        if (unit.disk > 0) {
          trace.push_back({Kind::Work, Lane::Disk, unit.disk});
          trace.push_back({Kind::Record, Lane::Disk, 0, read(i.slot)});
          trace.push_back({Kind::Wait, Lane::H2D, 0, read(i.slot)});
        }
        trace.push_back({Kind::Wait, Lane::H2D, 0, released(i.slot)});
        trace.push_back({Kind::Work, Lane::H2D, unit.copy});
        trace.push_back({Kind::Record, Lane::H2D, 0, copied(i.slot)});
        break;
      case Instruction::Kind::Visit:
        if (i.slot >= 0) trace.push_back({Kind::Wait, Lane::Compute, 0, copied(i.slot)});
        trace.push_back({Kind::Work, Lane::Compute, unit.compute});
        break;
      case Instruction::Kind::Release:
        if (i.slot >= 0) trace.push_back({Kind::Record, Lane::Compute, 0, released(i.slot)});
        break;
    }
  }
  return trace;
}

PassTime pass_of(const std::vector<int64_t>& visits, const std::vector<UnitTime>& units,
                 int64_t slots, bool in_line = false) {
  const std::vector<bool> none(units.size(), false);
  const RingState empty(static_cast<size_t>(slots), -1);
  const Program program = make_program(visits, none, empty);
  check_program(program, visits, none, empty);
  return simulate(trace_of(program, units, slots), in_line);
}

double seconds_of(const std::vector<int64_t>& visits, const std::vector<UnitTime>& units,
                  int64_t slots) {
  return pass_of(visits, units, slots).seconds;
}

}  // namespace

TEST_CASE("copies hide behind compute, and compute behind copies") {
  const std::vector<int64_t> visits = {0, 1, 2, 3};
  // The first copy shows, then compute never waits.
  CHECK(seconds_of(visits, std::vector<UnitTime>(4, {0, 1, 2}), 2) == 1 + 4 * 2.0);
  // The last compute shows, copies run without a gap.
  CHECK(seconds_of(visits, std::vector<UnitTime>(4, {0, 2, 1}), 2) == 4 * 2.0 + 1);
  // With one slot nothing overlaps.
  CHECK(seconds_of(visits, std::vector<UnitTime>(4, {0, 2, 1}), 1) == 4 * 3.0);
  // Three stages: the slowest sets the pace.
  CHECK(seconds_of(visits, std::vector<UnitTime>(4, {3, 2, 1}), 2) == 4 * 3.0 + 2 + 1);
  const PassTime pass = pass_of(visits, std::vector<UnitTime>(4, {0, 2, 1}), 2);
  CHECK(pass.stall == 2 + 3 * 1.0);
  CHECK(pass.busy == std::array<double, kLanes>{4, 8, 0, 0, 0});
}

TEST_CASE("what a device does in line adds up") {
  const PassTime pass = pass_of({0, 1, 2}, std::vector<UnitTime>(3, {0, 2, 1}), 2, true);
  CHECK(pass.seconds == 3 * 3.0);
  CHECK(pass.stall == 0);
}

TEST_CASE("the disk works beside what a device does in line") {
  using K = TraceItem::Kind;
  const std::vector<TraceItem> trace = {
      {K::Work, Lane::Disk, 2},    {K::Record, Lane::Disk, 0, 0}, {K::Work, Lane::Disk, 2},
      {K::Record, Lane::Disk, 0, 1}, {K::Wait, Lane::Host, 0, 0}, {K::Work, Lane::Compute, 3},
      {K::Wait, Lane::Host, 0, 1}, {K::Work, Lane::Compute, 3}};
  const PassTime pass = simulate(trace, true);
  CHECK(pass.seconds == 2 + 2 * 3.0);  // the first read shows, the second does not
  CHECK(pass.stall == 2);
}

TEST_CASE("reads that the host does itself add up") {
  using K = TraceItem::Kind;
  const std::vector<TraceItem> trace = {{K::Work, Lane::Host, 2},
                                        {K::Record, Lane::Disk, 0, 0},
                                        {K::Wait, Lane::Host, 0, 0},
                                        {K::Work, Lane::Compute, 3}};
  for (const bool in_line : {false, true}) CHECK(simulate(trace, in_line).seconds == 5);
}

TEST_CASE("nothing begins before the host has submitted it") {
  using K = TraceItem::Kind;
  const std::vector<TraceItem> trace = {
      {K::Work, Lane::Disk, 3},    {K::Record, Lane::Disk, 0, 0}, {K::Work, Lane::Compute, 1},
      {K::Wait, Lane::Host, 0, 0}, {K::Work, Lane::Compute, 1},   {K::Record, Lane::Compute, 0, 1},
      {K::Wait, Lane::Host, 0, 1}, {K::Work, Lane::Disk, 3}};
  const PassTime pass = simulate(trace, false);
  CHECK(pass.seconds == 3 + 1 + 3.0);
  CHECK(pass.stall == 2);
  CHECK(pass.busy == std::array<double, kLanes>{2, 0, 0, 6, 0});
}

TEST_CASE("the turn needs no copies") {
  const std::vector<UnitTime> units(2, {0, 5, 1});
  CHECK(seconds_of({0, 1, 1, 0}, units, 2) == 2 * 5 + 3 * 1.0);
}

TEST_CASE("a wait for what was never recorded is none") {
  using K = TraceItem::Kind;
  const std::vector<TraceItem> trace = {{K::Wait, Lane::Compute, 0, 7},
                                        {K::Work, Lane::Compute, 2},
                                        {K::Record, Lane::Compute, 0, 7},
                                        {K::Wait, Lane::H2D, 0, 7},
                                        {K::Work, Lane::H2D, 1}};
  CHECK(simulate(trace, false).seconds == 3);
}

TEST_CASE("every pass keeps its bounds") {
  std::mt19937 random(11);
  std::uniform_real_distribution<double> time(0, 2);
  for (int round = 0; round < 300; ++round) {
    const auto count = static_cast<int64_t>(2 + random() % 7);
    std::vector<UnitTime> units;
    for (int64_t u = 0; u < count; ++u) units.push_back({time(random), time(random), time(random)});
    const std::vector<int64_t> visits = training_visits(count, 0, 0);
    double before = 1e9;
    for (int64_t slots = 1; slots <= count; ++slots) {
      const PassTime pass = pass_of(visits, units, slots),
                     in_line = pass_of(visits, units, slots, true);
      const double busiest = *std::max_element(pass.busy.begin(), pass.busy.end());
      CHECK(pass.seconds >= busiest - kDust);
      CHECK(pass.seconds <= in_line.seconds + kDust);
      CHECK(pass.stall <= pass.seconds - pass.busy[0] + kDust);
      if (slots == count) CHECK(pass.seconds <= before + kDust);  // one load each
      before = pass.seconds;
    }
    // Twice as slow in all parts, twice as long.
    std::vector<UnitTime> slower = units;
    for (UnitTime& unit : slower) unit = {2 * unit.disk, 2 * unit.copy, 2 * unit.compute};
    const double ratio = seconds_of(visits, slower, 2) / seconds_of(visits, units, 2);
    CHECK(std::abs(ratio - 2) < 1e-9);
  }
}
