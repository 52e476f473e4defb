// Placement by need: first what must be on the device, then a ring, then residents, then kept
// activations. In host memory what is left then holds weights; the others come from disk.
#include "stream/plan.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "core/error.h"
#include "core/units.h"
#include "stream/saved_store.h"

namespace lema {
namespace {

int64_t sum(const std::vector<int64_t>& values) {
  return std::accumulate(values.begin(), values.end(), int64_t{0});
}

// Marks `count` of n units as resident, spread evenly so that their compute hides the copies of
// their neighbours.
std::vector<bool> spread(int64_t count, int64_t n) {
  std::vector<bool> resident(static_cast<size_t>(n), false);
  for (int64_t i = 0; i < count; ++i)
    resident[static_cast<size_t>((2 * i + 1) * n / (2 * count))] = true;
  return resident;
}

[[noreturn]] void refuse(const char* where, const char* key, bool is_set, int64_t budget,
                         int64_t need) {
  if (is_set)
    fail(ErrorCode::DoesNotFit, "the run needs {} {} and {} is {}; set it to at least {}",
         format_bytes(need), where, key, format_bytes(budget), need);
  fail(ErrorCode::DoesNotFit, "the run needs {} {} and may take {}", format_bytes(need), where,
       format_bytes(budget));
}

class Placer {
 public:
  explicit Placer(const PlanRequest& request) : request_(request) {}

  // Fixed buffers, the staging of boundaries where they may be offloaded, what is kept where it
  // must be, and the least of weights.
  int64_t least() const {
    int64_t bytes = smallest_weights() + kept_wish();
    for (const PlanLine& line : request_.fixed)
      if (line.tier == Tier::Device) bytes += line.bytes;
    const bool may_offload = request_.activations == "auto" || request_.activations == "offload";
    return bytes + page_tables(may_offload) +
           (may_offload ? staged_boundaries() : all_boundaries());
  }

  // Likewise of host memory, under a budget for it.
  int64_t least_host() { return place_needed(); }

  Plan place() {
    if (has_budget() && least() > request_.device_budget)
      refuse("on the device", "memory.vram", request_.device_budget_is_set, request_.device_budget,
             least());
    const int64_t host = place_needed();
    if (has_ram_budget() && host > request_.ram.budget)
      refuse("of host memory", request_.ram.key, request_.ram.is_set, request_.ram.budget, host);
    plan_.weights.in_place = in_place();
    if (in_place())
      plan_.weights.resident.assign(request_.unit_bytes.size(), true);
    else
      place_on_device();
    place_kept();
    reserved_ = 0;
    place_on_host();
    return std::move(plan_);
  }

 private:
  bool has_budget() const { return request_.device_budget > 0; }
  bool has_ram_budget() const { return request_.ram.budget > 0; }
  // Whether a budget bounds what the device holds.
  bool is_bounded() const {
    return has_budget() || (has_ram_budget() && request_.ram.holds_device);
  }
  bool in_place() const {
    return request_.weights_in_place && !has_budget() &&
           (request_.residency != "stream" || has_ram_budget());
  }

  // What is left of the device's memory.
  int64_t left() const {
    int64_t left = INT64_MAX;
    if (has_budget()) left = request_.device_budget - plan_.bytes(Tier::Device) - kept_wish();
    return request_.ram.holds_device ? std::min(left, ram_left()) : left;
  }
  // What is left of the host's.
  int64_t ram_left() const {
    if (!has_ram_budget()) return INT64_MAX;
    int64_t left = request_.ram.budget - reserved_;
    for (const PlanLine& line : plan_.lines)
      if (line.tier != Tier::Device || request_.ram.holds_device) left -= line.bytes;
    return left - (request_.ram.holds_device && !kept_are_placed_ ? kept_wish() : 0);
  }
  // Places what is needed whatever the budgets; the rest of the least is reserved. Returns the
  // least of host memory, 0 without a budget for it.
  int64_t place_needed() {
    for (const PlanLine& line : request_.fixed) add(line.tier, line.label, line.bytes);
    place_boundaries();
    reserved_ = least_host_weights();
    if (!has_ram_budget()) return 0;
    const int64_t copies = request_.ram.holds_device ? smallest_weights() : 0;
    return request_.ram.budget - ram_left() + copies;
  }
  // Activations that are to be kept whatever else must go.
  int64_t kept_wish() const {
    return request_.activations == "keep" ? request_.block_count * request_.kept_bytes_per_block
                                          : 0;
  }
  int64_t all_boundaries() const { return request_.boundary_count * request_.boundary_bytes; }
  int64_t staged_boundaries() const {
    return std::min(request_.boundary_count, SavedStore::kStaging) * request_.boundary_bytes;
  }

  // Of the driver, for the weights and, if they are, the offloaded boundaries.
  int64_t page_tables(bool offload) const {
    if (request_.pinned_per_device_byte == 0) return 0;
    int64_t pinned = request_.pinned_weights;
    if (has_ram_budget()) pinned = std::min(pinned, request_.ram.budget);
    if (offload) pinned += all_boundaries() - staged_boundaries();
    return pinned / request_.pinned_per_device_byte;
  }

  void add(Tier tier, std::string label, int64_t bytes) {
    if (bytes > 0) plan_.lines.push_back({tier, std::move(label), bytes});
  }

  int64_t ring_bytes(int64_t slots) const {
    return slots * *std::max_element(request_.unit_bytes.begin(), request_.unit_bytes.end());
  }

  // Of the ring on the device: more slots than units hold nothing.
  int64_t device_slots() const {
    return std::min(request_.slots ? request_.slots : 2, std::ssize(request_.unit_bytes));
  }
  // The least that weights need on the device.
  int64_t smallest_weights() const {
    if (in_place()) return 0;
    const int64_t all = sum(request_.unit_bytes), ring = ring_bytes(device_slots());
    if (request_.residency == "resident") return all;
    return request_.residency == "stream" ? ring : std::min(all, ring);
  }

  void place_boundaries() {
    const int64_t all = all_boundaries(), staged = staged_boundaries();
    const bool must = has_budget() && all + page_tables(false) + smallest_weights() > left();
    plan_.offload_boundaries = staged < all && (request_.activations == "offload" ||
                                                (request_.activations == "auto" && must));
    add(Tier::Device,
        plan_.offload_boundaries ? "boundary activations (staging)" : "boundary activations",
        plan_.offload_boundaries ? staged : all);
    if (plan_.offload_boundaries)
      add(Tier::Pinned, "boundary activations (offloaded)", all - staged);
    add(Tier::Device, "page tables of pinned memory", page_tables(plan_.offload_boundaries));
  }

  // The least that weights need in host memory.
  int64_t least_host_weights() const {
    const RamRequest& ram = request_.ram;
    if (!has_ram_budget() || (in_place() && request_.residency == "resident"))
      return request_.pinned_weights;
    const int64_t ring = ram.small_bytes + ram.row_bytes + host_bytes(no_units(), least_slots());
    return streams_in_place() ? ring : std::min(ring, request_.pinned_weights);
  }
  int64_t least_slots() const { return in_place() && request_.slots ? request_.slots : 2; }
  // Nothing is held: the ring in RAM is to be seen at work.
  bool streams_in_place() const { return in_place() && request_.residency == "stream"; }

  void place_on_device() {
    const auto units = static_cast<int64_t>(request_.unit_bytes.size());
    StreamPlacement& weights = plan_.weights;
    const std::string& residency = request_.residency;
    const bool all_fit = sum(request_.unit_bytes) <= left();
    if (residency == "resident" || (residency == "auto" && all_fit)) {
      weights.resident.assign(static_cast<size_t>(units), true);
    } else {
      weights.slots = device_slots();
      weights.resident =
          residency == "stream" ? spread(0, units) : most_residents(ring_bytes(weights.slots));
    }
    int64_t resident_bytes = 0;
    for (int64_t u = 0; u < units; ++u)
      if (weights.resident[static_cast<size_t>(u)])
        resident_bytes += request_.unit_bytes[static_cast<size_t>(u)];
    add(Tier::Device, "resident weights", resident_bytes);
    if (weights.slots)
      add(Tier::Device, fmt::format("weight ring of {} slots", weights.slots),
          streamed_slot_bytes() * weights.slots);
  }

  // A slot holds the largest unit that is streamed.
  int64_t streamed_slot_bytes() const {
    int64_t largest = 0;
    for (size_t u = 0; u < request_.unit_bytes.size(); ++u)
      if (!plan_.weights.resident[u]) largest = std::max(largest, request_.unit_bytes[u]);
    return largest;
  }

  // As many units as fit beside a ring of this size.
  std::vector<bool> most_residents(int64_t ring) const {
    const auto units = static_cast<int64_t>(request_.unit_bytes.size());
    for (int64_t count = units - 1; count > 0; --count) {
      std::vector<bool> resident = spread(count, units);
      int64_t bytes = ring;
      for (int64_t u = 0; u < units; ++u)
        if (resident[static_cast<size_t>(u)]) bytes += request_.unit_bytes[static_cast<size_t>(u)];
      if (bytes <= left()) return resident;
    }
    return spread(0, units);
  }

  // Without a device budget, kept activations compete with everything else for host memory: auto
  // takes kAutoKeptBytes at most. With one, it takes what is left.
  void place_kept() {
    if (request_.activations == "recompute" || request_.activations == "offload") return;
    const int64_t each = request_.kept_bytes_per_block;
    int64_t count = request_.block_count;
    if (request_.activations == "auto" && each > 0)
      count =
          std::min(count, (is_bounded() ? std::max<int64_t>(0, left()) : kAutoKeptBytes) / each);
    plan_.kept_blocks = count;
    add(Tier::Device, fmt::format("kept activations of {} blocks", count), count * each);
    kept_are_placed_ = true;
  }

  void place_on_host() {
    const std::string_view use = in_place() ? "read in place" : "copied from the mapped file";
    if (request_.pinned_weights == 0)
      return add(Tier::Mapped, fmt::format("weights, {}", use), sum(request_.unit_bytes));
    plan_.host.disk = DiskMode::Buffered;  // till another is chosen
    if (!streams_in_place() && request_.pinned_weights <= ram_left())
      return add(Tier::Pinned, "weights in RAM", request_.pinned_weights);
    HostPlacement& host = plan_.host;
    host.holds_all = false;
    add(Tier::Pinned, "final norm and positions", request_.ram.small_bytes);
    add(Tier::Pinned, "embedding rows of a step", request_.ram.row_bytes);
    host.slots = least_slots();
    // A third slot evens out what a unit's read takes; read in place, more of them, for half of the
    // units at most, keep a disk busy where units are small. A slot saves as many reads as a unit
    // held.
    const bool is_given = request_.slots == 2 || (in_place() && request_.slots > 0);
    const int64_t busy = std::min(others(no_units()) / 2, kBusyRing / host_bytes(no_units(), 1));
    const int64_t wish = is_given ? host.slots : in_place() ? std::max<int64_t>(3, busy) : 3;
    while (host.slots < wish && host_bytes(no_units(), host.slots + 1) <= ram_left()) ++host.slots;
    host.held = most_held();
    host.slots = std::min(host.slots, others(host.held));
    if (in_place()) plan_.weights.resident = host.held;
    add(Tier::Pinned, "weights held in RAM", held_bytes(host.held));
    add(Tier::Pinned, fmt::format("weight ring of {} slots in RAM", host.slots),
        host_bytes(host.held, host.slots) - held_bytes(host.held));
  }

  std::vector<bool> no_units() const {
    return std::vector<bool>(request_.unit_bytes.size(), false);
  }
  int64_t held_bytes(const std::vector<bool>& held) const {
    int64_t bytes = 0;
    for (size_t u = 0; u < held.size(); ++u)
      if (held[u]) bytes += request_.ram.image_bytes[u];
    return bytes;
  }
  // Of the units held and a ring for the others, of at most as many slots as there are others.
  int64_t host_bytes(const std::vector<bool>& held, int64_t slots) const {
    int64_t largest = 0;
    for (size_t u = 0; u < held.size(); ++u)
      if (!held[u]) largest = std::max(largest, request_.ram.image_bytes[u]);
    return held_bytes(held) + std::min(slots, others(held)) * largest;
  }
  static int64_t others(const std::vector<bool>& held) {
    return std::count(held.begin(), held.end(), false);
  }
  // As many units as fit beside the ring, spread evenly among those that the device reads more than
  // once.
  std::vector<bool> most_held() const {
    std::vector<size_t> units;
    for (size_t u = 0; u < request_.unit_bytes.size(); ++u)
      if (in_place() || !plan_.weights.resident[u]) units.push_back(u);
    for (int64_t count = streams_in_place() ? 0 : std::ssize(units); count > 0; --count) {
      const std::vector<bool> chosen = spread(count, std::ssize(units));
      std::vector<bool> held = no_units();
      for (size_t i = 0; i < units.size(); ++i) held[units[i]] = chosen[i];
      if (host_bytes(held, plan_.host.slots) <= ram_left()) return held;
    }
    return no_units();
  }

  static constexpr int64_t kAutoKeptBytes = int64_t{512} << 20;
  // What is in flight (disk_reader.cpp), and what computes.
  static constexpr int64_t kBusyRing = int64_t{48} << 20;
  const PlanRequest& request_;
  Plan plan_;
  int64_t reserved_ = 0;  // host memory for weights that are not placed yet
  bool kept_are_placed_ = false;
};

constexpr std::array kTiers = {Tier::Device, Tier::Pinned, Tier::Host, Tier::Mapped};

std::string_view tier_name(Tier tier) {
  switch (tier) {
    case Tier::Device:
      return "device";
    case Tier::Pinned:
      return "pinned";
    case Tier::Host:
      return "host";
    case Tier::Mapped:
      return "mapped";
  }
  return "?";
}

}  // namespace

int64_t Plan::bytes(Tier tier) const {
  int64_t total = 0;
  for (const PlanLine& line : lines)
    if (line.tier == tier) total += line.bytes;
  return total;
}

Value Plan::to_value() const {
  Value value;
  Value::Array buffers;
  for (const PlanLine& line : lines) {
    Value row;
    row.set("tier", tier_name(line.tier));
    row.set("label", line.label);
    row.set("bytes", line.bytes);
    buffers.push_back(std::move(row));
  }
  value.set("buffers", std::move(buffers));
  for (Tier tier : kTiers) value.set(fmt::format("{}_bytes", tier_name(tier)), bytes(tier));
  value.set("in_place", weights.in_place);
  value.set("disk", name(host.disk));
  Value::Array resident;
  for (size_t u = 0; u < weights.resident.size(); ++u)
    if (weights.resident[u] && !weights.in_place) resident.emplace_back(static_cast<int64_t>(u));
  value.set("resident_units", std::move(resident));
  value.set("ring_slots", weights.slots);
  Value::Array held;
  for (size_t u = 0; u < host.held.size(); ++u)
    if (host.held[u]) held.emplace_back(static_cast<int64_t>(u));
  value.set("held_units", std::move(held));
  value.set("ram_slots", host.slots);
  value.set("offload_boundaries", offload_boundaries);
  value.set("kept_blocks", kept_blocks);
  return value;
}

std::string Plan::table() const {
  std::string out;
  const auto row = [&](Tier tier, int64_t size, std::string_view label) {
    out += fmt::format("  {:<7} {:>11}  {}\n", tier_name(tier), format_bytes(size), label);
  };
  for (const Tier tier : kTiers) {
    for (const PlanLine& line : lines)
      if (line.tier == tier) row(tier, line.bytes, line.label);
    if (bytes(tier) > 0) row(tier, bytes(tier), "in all");
  }
  return out;
}

PlanRequest weights_request(const PieceTable& table, const Device& device) {
  // Measured (H100, driver 580): a page table entry of 8 bytes for each page of 4 KiB.
  constexpr int64_t kPinnedPerDeviceByte = 512;
  PlanRequest request;
  for (int64_t u = 0; u < table.unit_count(); ++u) {
    request.unit_bytes.push_back(table.unit(u).bytes);
    request.ram.image_bytes.push_back(HostImage(unit_extents(table.unit(u))).bytes());
  }
  request.ram.small_bytes = HostImage(small_extents(table)).bytes();
  request.pinned_weights = HostImage(all_extents(table)).bytes();
  if (device.needs_pinned_weights()) request.pinned_per_device_byte = kPinnedPerDeviceByte;
  return request;
}

int64_t least_device_bytes(const PlanRequest& request) { return Placer(request).least(); }

int64_t least_host_bytes(const PlanRequest& request) { return Placer(request).least_host(); }

Plan make_plan(const PlanRequest& request) { return Placer(request).place(); }

}  // namespace lema
