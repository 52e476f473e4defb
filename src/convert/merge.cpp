// The products B A in tiles of rows over the CPU's matrix kernel, added to the weights as they
// stream by.
#include "convert/merge.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>

#include "convert/convert.h"
#include "convert/model_folder_copy.h"
#include "core/error.h"
#include "core/folder.h"
#include "core/hash.h"
#include "core/thread_pool.h"
#include "cpu/convert.h"
#include "cpu/gemm.h"
#include "cpu/lora_norm.h"
#include "formats/peft_adapter.h"
#include "layout/piece_table.h"
#include "model/adapter_rules.h"
#include "model/opened_adapter.h"

namespace lema {
namespace {

// What one matrix's merge measured.
struct Change {
  float max_weight = 0, max_delta = 0;
  double squared_delta = 0, squared_rounding = 0;

  void add(const Change& other) {
    max_weight = std::max(max_weight, other.max_weight);
    max_delta = std::max(max_delta, other.max_delta);
    squared_delta += other.squared_delta;
    squared_rounding += other.squared_rounding;
  }
};

// Adds scale * B A to the rows of one matrix, (out, in), or (in, out) where `transposed`. With
// DoRA's magnitudes each output's weights are then brought to their length, which takes a first
// reading of the whole matrix by measure(). Ref: arXiv:2402.09353, eq. 5.
class LowRankUpdate {
 public:
  LowRankUpdate(const AdapterModule& module, double scale, bool transposed, DType output,
                ThreadPool& pool)
      : module_(module),
        scale_(static_cast<float>(scale)),
        transposed_(transposed),
        output_(output),
        pool_(pool) {
    cols_ = transposed ? module.out : module.in;
    const cpu::Operand a = cpu::operand(module.a.data(), module.in),
                       b = cpu::operand(module.b.data(), module.rank);
    left_ = transposed ? a.transposed() : b;
    panel_.resize(static_cast<size_t>(cpu::panel_floats(module.rank, cols_)));
    cpu::pack_panel({panel_.data(), module.rank, 0}, transposed ? b.transposed() : a, cols_,
                    DType::F32);
    if (!needs_measure()) return;
    squares_.assign(module.magnitude.size(), 0);
    OpsLimits limits;
    limits.rank = module.rank;
    workspace_ = std::make_unique<cpu::Workspace>(limits, pool.threads());
  }

  bool needs_measure() const { return !module_.magnitude.empty(); }
  // values ((end - begin), cols) f32: W. All rows, in order; finish_measure() then.
  void measure(float* values, int64_t begin, int64_t end) {
    const int64_t rows = end - begin, rank = module_.rank, O = transposed_ ? cols_ : rows;
    // The pair's share in these rows: rows of B, or columns of A.
    std::vector<float> a = module_.a, b = module_.b;
    if (transposed_) {
      a.resize(static_cast<size_t>(rank * rows));
      for (int64_t r = 0; r < rank; ++r)
        std::copy_n(module_.a.begin() + r * module_.in + begin, rows, a.begin() + r * rows);
    } else {
      b.assign(module_.b.begin() + begin * rank, module_.b.begin() + end * rank);
    }
    LoraView lora;
    lora.a = {a.data(), DType::F32, {rank, std::ssize(a) / rank}};
    lora.b = {b.data(), DType::F32, {std::ssize(b) / rank, rank}};
    lora.scale = scale_;
    std::vector<float> norms(static_cast<size_t>(O));
    cpu::lora_norm(pool_, *workspace_, {norms.data(), DType::F32, {O}},
                   {{values, DType::F32, {rows, cols_}}, transposed_, {}, &lora});
    for (int64_t o = 0; o < O; ++o)
      squares_[static_cast<size_t>(transposed_ ? o : begin + o)] +=
          double{norms[static_cast<size_t>(o)]} * norms[static_cast<size_t>(o)];
  }

  // BadInput, naming the weight, where an output has no direction.
  void finish_measure(const std::string& weight) {
    for (size_t o = 0; o < squares_.size(); ++o) {
      if (squares_[o] == 0)
        fail(ErrorCode::BadInput,
             "{}: output {} has only zeros for weights, so DoRA finds no direction", weight, o);
      gains_.push_back(module_.magnitude[o] / std::sqrt(squares_[o]));
    }
  }

  // values ((end - begin), cols) f32: W on entry, the merged weights on return.
  void apply(float* values, int64_t begin, int64_t end) {
    std::vector<Change> changes(static_cast<size_t>((end - begin + kTile - 1) / kTile));
    for_each_tile(begin, end, [&](int64_t first, int64_t rows) {
      changes[static_cast<size_t>((first - begin) / kTile)] =
          apply_tile(values + (first - begin) * cols_, first, rows);
    });
    for (const Change& change : changes) change_.add(change);
  }

  const Change& change() const { return change_; }

 private:
  static constexpr int64_t kTile =
      32;  // rows; fixed, so that sums do not depend on the thread count

  template <typename Visit>
  void for_each_tile(int64_t begin, int64_t end, const Visit& visit) {
    pool_.parallel_for((end - begin + kTile - 1) / kTile, [&](int64_t tile) {
      const int64_t first = begin + tile * kTile;
      visit(first, std::min(kTile, end - first));
    });
  }

  // scale * B A of rows [first, first + rows), at most kTile.
  std::vector<float> delta(int64_t first, int64_t rows) {
    std::vector<float> delta(static_cast<size_t>(rows * cols_)), scratch(cpu::kMultiplyScratch);
    cpu::multiply(delta.data(), cols_, left_.from(first, 0), {panel_.data(), module_.rank}, rows,
                  cols_, module_.rank, Write::Overwrite, DType::F32, scratch.data());
    for (float& x : delta) x *= scale_;
    return delta;
  }

  // delta becomes what changes the weights to g o (W + delta).
  void add_gain(std::vector<float>& delta, const float* values, int64_t first) const {
    for (size_t i = 0; i < delta.size(); ++i) {
      const auto at = static_cast<int64_t>(i);
      const double g = gains_[static_cast<size_t>(transposed_ ? at % cols_ : first + at / cols_)];
      delta[i] = static_cast<float>(g * delta[i] + (g - 1) * values[i]);
    }
  }

  Change apply_tile(float* values, int64_t first, int64_t rows) {
    std::vector<float> change_of = delta(first, rows);
    if (!gains_.empty()) add_gain(change_of, values, first);
    const auto count = change_of.size();
    Change change;
    for (size_t i = 0; i < count; ++i) {
      change.max_weight = std::max(change.max_weight, std::abs(values[i]));
      change.max_delta = std::max(change.max_delta, std::abs(change_of[i]));
      change.squared_delta += double{change_of[i]} * change_of[i];
      values[i] += change_of[i];
    }
    std::vector<float> rounded(count);
    std::vector<std::byte> stored(count * static_cast<size_t>(element_bytes(output_)));
    cpu::narrow(stored.data(), output_, values, static_cast<int64_t>(count));
    cpu::widen(rounded.data(), stored.data(), output_, static_cast<int64_t>(count));
    for (size_t i = 0; i < count; ++i) {
      const double moved = double{rounded[i]} - values[i];
      change.squared_rounding += moved * moved;
    }
    return change;
  }

  const AdapterModule& module_;
  float scale_;
  bool transposed_;
  int64_t cols_ = 0;
  DType output_;
  ThreadPool& pool_;
  cpu::Operand left_;            // (rows, rank)
  std::vector<float> panel_;     // (rank, cols), packed
  std::vector<double> squares_, gains_;  // (out) of W + scale B A; magnitude / norm
  std::unique_ptr<cpu::Workspace> workspace_;  // of measure()
  Change change_;
};

using Adapted = std::map<std::string, AdapterModule>::value_type;  // path and pair

// Tensor name -> the adapter's pair. Every module finds its linear, and fits it.
// An embedding's row is the output of its number, so that it lies as a transposed linear does.
std::map<std::string, const Adapted*> match_modules(const Adapter& adapter, const ModelSpec& spec,
                                                    const fs::path& adapter_path) {
  std::map<std::string, const FieldSpec*> linears;
  for (const FieldSpec* field : model_file_order(spec))
    if (!field->module.empty()) linears.emplace(field->module, field);
  std::map<std::string, const Adapted*> matched;
  for (const Adapted& adapted : adapter.modules) {
    const auto& [path, module] = adapted;
    const std::string place = fmt::format("{}: module {}", adapter_path.string(), escaped(path));
    if (spec.has_tied_head() && (path == spec.head.module || path == spec.embed.module))
      fail(ErrorCode::BadInput,
           "{0} is the {1}'s own matrix in this model; merging it would change the {1}", place,
           path == spec.head.module ? "embedding" : "head");
    const auto found = linears.find(path);
    if (found == linears.end() || module.is_embedding != (found->second->field == Field::Embed))
      fail(ErrorCode::BadInput, "{} is no {} of the model", place,
           module.is_embedding ? "embedding" : "linear");
    const Shape& shape = found->second->shape;
    // The head is a plain linear in every family.
    const bool transposed =
        module.is_embedding || (spec.linear_transposed && path != spec.head.module);
    const int in_axis = transposed ? 0 : 1;
    if (shape[in_axis] != module.in || shape[1 - in_axis] != module.out)
      fail(ErrorCode::BadInput, "{} maps {} to {} numbers; the model's maps {} to {}", place,
           module.in, module.out, shape[in_axis], shape[1 - in_axis]);
    matched.emplace(found->second->tensor, &adapted);
  }
  return matched;
}

// Tensor name -> the matrix that the adapter has in its place.
std::map<std::string, const FullModule*> match_full(const Adapter& adapter, const ModelSpec& spec,
                                                    const fs::path& adapter_path) {
  std::map<std::string, const FullModule*> matched;
  for (const auto& [path, module] : adapter.full) {
    const std::string place = fmt::format("{}: {} of modules_to_save", adapter_path.string(),
                                          escaped(path));
    const FieldSpec* field = path == spec.embed.module  ? &spec.embed
                             : path == spec.head.module ? &spec.head
                                                        : nullptr;
    if (!field)
      fail(ErrorCode::BadInput, "{} is not supported; {} and {} are", place, spec.embed.module,
           spec.head.module);
    if (!(module.shape == field->shape))
      fail(ErrorCode::BadInput, "{} is {}; the model's is {}", place, module.shape.str(),
           field->shape.str());
    const bool is_own = std::find(adapter.own_base.begin(), adapter.own_base.end(), path) !=
                        adapter.own_base.end();
    if (spec.has_tied_head() && !is_own)
      fail(ErrorCode::BadInput,
           "{} was trained apart from the matrix that it shares with {} in this model; a merged "
           "model cannot hold both, use the adapter unmerged",
           place, field == &spec.embed ? spec.head.module : spec.embed.module);
    matched.emplace(field->tensor, &module);
  }
  return matched;
}

// A weight with the numbers of the adapter's own matrix.
WeightSource replaced(const WeightSource& weight, const FullModule& module) {
  WeightSource source = weight;
  source.dtype = DType::F32;
  source.read = [&module](int64_t begin, int64_t end, std::byte* out) {
    const int64_t row = module.shape[1];
    std::memcpy(out, module.values.data() + begin * row,
                static_cast<size_t>((end - begin) * row) * sizeof(float));
  };
  return source;
}

Metadata merge_metadata(const MergeOptions& options) {
  return {{"format", "pt"},
          {"lema_format", kModelFileVersion},
          {"lema_base", fs::canonical(options.model).filename().string()},
          {"lema_adapter_sha256", sha256_file(options.adapter / "adapter_model.safetensors")}};
}

VerifyResult verify(const ModelFolder& base, const Adapter& adapter, const fs::path& merged,
                    const std::vector<TensorSpec>& tensors, const ReportProgress& report) {
  // BF16 has the fewest digits, then F16.
  DType coarsest = DType::F32;
  for (const TensorSpec& tensor : tensors)
    if (tensor.dtype == DType::BF16 || coarsest == DType::F32) coarsest = tensor.dtype;
  const VerifyResult result = compare_logits(base, adapter, ModelFolder(merged), coarsest, report);
  if (!(result.relative_rms <= result.tolerance))
    fail(ErrorCode::Numeric,
         "the merged model's logits differ from base and adapter's by {:.3g} (relative RMS, max "
         "{:.3g}); {} allows {:.3g}, "
         "and the adapter itself moves them by {:.3g}; a wider --dtype rounds less. Nothing was "
         "written",
         result.relative_rms, result.max_abs, name(coarsest), result.tolerance, result.adapter_rms);
  return result;
}

class Merger {
 public:
  Merger(const ModelSpec& spec, const AdapterRules& rules, ShardedWriter& writer,
         const ReportProgress& report)
      : spec_(spec), rules_(rules), pool_(available_cpus()), copier_(writer, report) {}

  // `module`: path and pair of the weight's adapter; null: none.
  void copy(const WeightSource& weight, const Adapted* module, DType to) {
    ++result_.tensors;
    if (!module) return copier_.copy(weight);
    const bool transposed = module->second.is_embedding ||
                            (spec_.linear_transposed && weight.name != spec_.head.tensor);
    LowRankUpdate update(module->second, rules_.scale(module->first), transposed, to, pool_);
    if (update.needs_measure()) {
      copier_.visit(weight, [&](float* values, int64_t begin, int64_t end) {
        update.measure(values, begin, end);
      });
      update.finish_measure(weight.place);
    }
    copier_.copy(weight, [&](float* values, int64_t begin, int64_t end) {
      update.apply(values, begin, end);
    });
    const Change& change = update.change();
    const double relative =
        change.max_weight > 0 ? double{change.max_delta} / change.max_weight : 0;
    if (relative >= result_.largest_change) {
      result_.largest_change = relative;
      result_.most_changed = weight.name;
    }
    total_.add(change);
    adapted_elements_ += weight.shape.elements();
    ++result_.adapted;
  }

  MergeResult result() const {
    MergeResult result = result_;
    const double n = std::max(1.0, static_cast<double>(adapted_elements_));
    result.change_rms = std::sqrt(total_.squared_delta / n);
    result.rounding_rms = std::sqrt(total_.squared_rounding / n);
    return result;
  }

 private:
  const ModelSpec& spec_;
  const AdapterRules& rules_;
  ThreadPool pool_;
  WeightCopier copier_;
  MergeResult result_;
  Change total_;
  int64_t adapted_elements_ = 0;
};

}  // namespace

MergeResult merge(const MergeOptions& options, const ReportProgress& report) {
  const fs::path inputs[] = {options.model, options.adapter};
  const fs::path output = output_folder(options.output, inputs);
  const ModelFolder folder(options.model);
  const PieceTable table = make_piece_table(folder);
  const Adapter adapter = open_adapter(options.adapter, folder, table.spec);
  const AdapterRules rules(adapter.config, options.adapter.string());
  const auto modules = match_modules(adapter, table.spec, options.adapter);
  const auto full = match_full(adapter, table.spec, options.adapter);
  const std::vector<WeightSource> weights = folder_weights(folder, table.spec);

  StagedFolder staged(output);
  ShardedWriter writer(staged.path(), output_tensors(weights, options.dtype),
                       merge_metadata(options), options.shard_bytes);
  check_free_space(output, writer.total_bytes());
  copy_side_files(folder, staged.path(), options.dtype);
  take_template(options.adapter, folder, staged.path());
  Merger merger(table.spec, rules, writer, report);
  for (size_t i = 0; i < weights.size(); ++i) {
    const auto own = full.find(weights[i].name);
    const WeightSource weight =
        own == full.end() ? weights[i] : replaced(weights[i], *own->second);
    const auto found = modules.find(weight.name);
    merger.copy(weight, found == modules.end() ? nullptr : found->second,
                writer.tensors()[i].dtype);
  }
  writer.finish();
  MergeResult result = merger.result();
  if (options.verify)
    result.verified = verify(folder, adapter, staged.path(), writer.tensors(), report);
  staged.commit();
  result.bytes = writer.total_bytes();
  result.shards = static_cast<int64_t>(writer.shard_count());
  return result;
}

}  // namespace lema
