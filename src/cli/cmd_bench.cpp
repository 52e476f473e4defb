// `lema bench`: how fast this machine runs the kernels of a training step, each beside the
// rates of large ones; keeps the rates that `lema plan` predicts with.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/options.h"
#include "core/log.h"
#include "formats/json.h"
#include "train/plan_training.h"

namespace lema {
namespace {

struct BenchOptions {
  ConfigOptions config;
  int64_t threads = 0;
  std::string device;  // empty: the run's, or auto
  bool json = false;
};

struct Measured {
  KernelCall call;
  int64_t count = 0;  // in a step
  double seconds = 0;
};

// Where no run is named: the kernels of a block of a small and of a middling model, 1,024 tokens.
std::vector<KernelCall> usual_calls() {
  constexpr int64_t kRows = 1024, kRank = 16;
  struct Model {
    int64_t C, F, H, Hkv, D;
  };
  std::vector<KernelCall> calls;
  for (const DType X : {DType::F32, DType::BF16})
    for (const Model& m : {Model{576, 1536, 9, 3, 64}, Model{2048, 5632, 32, 4, 64}}) {
      const auto add = [&](KernelCall call) { calls.push_back(std::move(call)); };
      const auto linear = [&](int64_t in, std::vector<int64_t> outs, Write forward) {
        for (const Kernel kernel : {Kernel::Linear, Kernel::LinearBackward}) {
          KernelCall call{kernel, X, kRows, in};
          call.gradient = kernel == Kernel::LinearBackward;
          if (kernel == Kernel::Linear) call.write = forward;
          for (const int64_t out : outs) {
            PartShape part{out, X, false, kRank};
            part.joined = !call.parts.empty();
            call.parts.push_back(part);
          }
          add(call);
        }
      };
      linear(m.C, {m.H * m.D, m.Hkv * m.D, m.Hkv * m.D}, Write::Overwrite);
      linear(m.H * m.D, {m.C}, Write::Accumulate);
      linear(m.C, {m.F, m.F}, Write::Overwrite);
      linear(m.F, {m.C}, Write::Accumulate);
      for (const Kernel kernel : {Kernel::Attention, Kernel::AttentionBackward}) {
        KernelCall call{kernel, X, kRows, m.H * m.D, 4};
        call.heads = {m.H, m.Hkv, m.D, 0.125f, 0};
        add(call);
      }
      for (const Kernel kernel : {Kernel::RmsNorm, Kernel::RmsNormBackward}) {
        KernelCall call{kernel, X, kRows, m.C, m.C, X};
        if (kernel == Kernel::RmsNormBackward) call.write = Write::Accumulate;
        add(call);
      }
      KernelCall rope{Kernel::Rope, X, kRows, (m.H + m.Hkv) * m.D, m.D};
      rope.parts = {{m.D}};
      rope.x_gap = m.Hkv * m.D;
      add(rope);
      for (const Kernel kernel : {Kernel::Swiglu, Kernel::SwigluBackward})
        add({kernel, X, kRows, m.F});
      add({Kernel::Add, X, kRows, m.C});
      add({Kernel::HeadChunk, X, kRows, m.C, 4096, X, true});
    }
  for (const Kernel kernel : {Kernel::AdamW, Kernel::SquaredNorm, Kernel::Fill})
    calls.push_back({kernel, DType::F32, 4 << 20, 1});
  return calls;
}

// The rates of lema's own kernels where they have most to work on: a large square product of this
// dtype, and adding arrays beyond every cache (what lies in one is faster). No peak of the machine.
struct Limits {
  double flops[2] = {0, 0};  // F32, BF16
  double bytes = 0;
  double share(const Measured& m) const {
    const double compute = m.call.flops() / flops[m.call.X == DType::BF16],
                 memory = m.call.bytes() / bytes;
    return std::max(compute, memory) / m.seconds;
  }
};

// Products in F32 and BF16, and a sum.
std::vector<KernelCall> limit_calls(const Device& device) {
  const int64_t size = device.reads_host_memory() ? 1536 : 8192;
  std::vector<KernelCall> calls;
  for (const DType X : {DType::F32, DType::BF16}) {
    calls.push_back({Kernel::Linear, X, size, size});
    calls.back().parts.push_back({size, X});
  }
  calls.push_back({Kernel::Add, DType::F32, 8192, 4096});
  return calls;
}

Limits limits_of(const MachineRates& rates, const std::vector<KernelCall>& calls) {
  const auto seconds = [&](size_t i) { return *rates.seconds(calls[i]); };
  return {{calls[0].flops() / seconds(0), calls[1].flops() / seconds(1)},
          calls[2].bytes() / seconds(2)};
}

void print(const std::vector<Measured>& list, const Limits& limits, MachineRates& rates,
           bool in_step) {
  fmt::print("{}\n", rates.machine());
  fmt::print("limits, of lema's own large products and sums: {:.0f} GFLOP/s in f32, {:.0f} in "
             "bf16, {:.1f} GB/s; copies {:.1f} GB/s\n",
             limits.flops[0] / 1e9, limits.flops[1] / 1e9, limits.bytes / 1e9,
             rates.copy_rate() / 1e9);
  fmt::print("{:>10} {:>9} {:>8} {:>9}  {}{}\n", "ms", "GFLOP/s", "GB/s", "of limit", "call",
             in_step ? " (times a step)" : "");
  for (const Measured& m : list)
    fmt::print("{:>10.3f} {:>9.1f} {:>8.1f} {:>7.0f} %  {}{}\n", 1000 * m.seconds,
               m.call.flops() / m.seconds / 1e9, m.call.bytes() / m.seconds / 1e9,
               100 * limits.share(m), m.call.key(),
               in_step ? fmt::format(" ({})", m.count) : std::string());
}

void print_json(const std::vector<Measured>& list, const Limits& limits, MachineRates& rates) {
  Value::Array calls;
  for (const Measured& m : list)
    calls.push_back(Value::Object{{"call", m.call.key()},
                                  {"count", m.count},
                                  {"seconds", m.seconds},
                                  {"flops", m.call.flops()},
                                  {"bytes", m.call.bytes()},
                                  {"of_limit", limits.share(m)}});
  fmt::print("{}\n", dump_json(Value(Value::Object{{"machine", rates.machine()},
                                                   {"f32_flops", limits.flops[0]},
                                                   {"bf16_flops", limits.flops[1]},
                                                   {"memory_bytes", limits.bytes},
                                                   {"copy_bytes", rates.copy_rate()},
                                                   {"calls", std::move(calls)}}),
                               2));
}

void bench(const BenchOptions& options) {
  const bool has_run = !options.config.config.empty() || !options.config.model.empty();
  RunConfig config;
  config.threads = options.threads;
  if (has_run)
    config = resolve(options.config);
  else
    config.threads = usable_threads(config.threads);
  if (!options.device.empty()) config.device = options.device;
  const Backend backend = open_backend(config.device);
  MachineRates rates(backend, static_cast<int>(config.threads));
  rates.forget();
  std::vector<Measured> list;
  if (has_run) {
    const StepTrace trace = PlannedRun(config).trace();
    for (const KernelCall& call : trace.calls) list.push_back({call});
    for (const StepItem& item : trace.items)
      if (item.call >= 0) ++list[static_cast<size_t>(item.call)].count;
  } else {
    for (KernelCall& call : usual_calls()) list.push_back({std::move(call)});
  }
  constexpr double kNoBudget = 1e9;
  const std::vector<KernelCall> large = limit_calls(*backend.device);
  std::vector<KernelCall> calls = large;
  for (const Measured& m : list) calls.push_back(m.call);
  rates.measure(calls, kNoBudget);
  for (Measured& m : list) m.seconds = *rates.seconds(m.call);
  const Limits limits = limits_of(rates, large);
  rates.copy_rate();
  rates.save();
  if (has_run)
    std::sort(list.begin(), list.end(), [](const Measured& a, const Measured& b) {
      return a.seconds * static_cast<double>(a.count) > b.seconds * static_cast<double>(b.count);
    });
  if (options.json)
    print_json(list, limits, rates);
  else
    print(list, limits, rates, has_run);
}

}  // namespace

void add_bench(CLI::App& app) {
  const auto options = std::make_shared<BenchOptions>();
  CLI::App* command = app.add_subcommand(
      "bench",
      "How fast the kernels of a training step run here; of a run's own where one is named");
  add_config_options(*command, options->config);
  CLI::Option* device = add_device_option(*command)->default_str("auto");
  command->add_option("--threads", options->threads, "CPU threads (without a run); 0: all")
      ->check(CLI::Range(0, 4096));
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([options, device] {
    if (device->count() > 0) options->device = device->as<std::string>();
    bench(*options);
  });
}

}  // namespace lema
