// Kernel tests on a GPU: every call copies its arguments to the device, runs there, and copies all
// of them back, the gaps between rows included. Arguments that overlap on the host overlap there
// too.
#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "support/backend.h"

namespace lema::test {
namespace {

// Device copies of host ranges, at the same distance from a 256-byte boundary.
class Mirror {
 public:
  explicit Mirror(Device& device) : device_(device) {}

  void begin() { ranges_.clear(); }
  void add(const MatrixView& m) {
    if (m.data != nullptr && m.rows > 0)
      add(m.data, ((m.rows - 1) * m.stride + m.cols) * element_bytes(m.dtype));
  }
  void add(const TensorView& t) {
    if (t.data != nullptr) add(t.data, t.bytes());
  }

  void upload() {
    std::sort(ranges_.begin(), ranges_.end(),
              [](const Range& a, const Range& b) { return a.begin < b.begin; });
    std::vector<Range> merged;
    for (const Range& range : ranges_) {
      if (!merged.empty() && range.begin < merged.back().end)
        merged.back().end = std::max(merged.back().end, range.end);
      else
        merged.push_back(range);
    }
    ranges_ = std::move(merged);
    int64_t used = 0;
    for (Range& range : ranges_) {
      range.offset = used + reinterpret_cast<intptr_t>(range.begin) % 256;
      used = (range.offset + (range.end - range.begin) + 255) / 256 * 256;
    }
    if (buffer_.bytes() < used) buffer_ = device_.allocate(2 * used, "arguments of a kernel test");
    for (const Range& range : ranges_)
      device_.copy_async(Queue::Compute, buffer_.data() + range.offset, range.begin,
                         range.end - range.begin);
  }

  void download() {
    for (const Range& range : ranges_)
      device_.copy_async(Queue::Compute, range.begin, buffer_.data() + range.offset,
                         range.end - range.begin);
    device_.synchronize(Queue::Compute);
  }

  template <typename View>
  View there(View view) const {
    if (view.data == nullptr) return view;
    auto* at = static_cast<std::byte*>(view.data);
    for (const Range& range : ranges_)
      if (range.begin <= at && at < range.end)
        view.data = buffer_.data() + range.offset + (at - range.begin);
    return view;
  }

 private:
  struct Range {
    std::byte *begin, *end;
    int64_t offset = 0;
  };
  void add(void* data, int64_t bytes) {
    auto* begin = static_cast<std::byte*>(data);
    if (bytes > 0) ranges_.push_back({begin, begin + bytes});
  }
  Device& device_;
  Buffer buffer_;
  std::vector<Range> ranges_;
};

class MirroredOps final : public Ops {
 public:
  explicit MirroredOps(const OpsLimits& limits)
      : device_(make_test_device()), ops_(make_cuda_ops(*device_, limits)), mirror_(*device_) {}
  int64_t scratch_bytes() const override { return ops_->scratch_bytes(); }

  void linear(MatrixView y, MatrixView x, std::span<const LinearPart> parts, Write write) override {
    with_parts(parts, {&y, &x}, [&](std::span<const LinearPart> there) {
      ops_->linear(mirror_.there(y), mirror_.there(x), there, write);
    });
  }
  void linear_backward(MatrixView dx, MatrixView dy, MatrixView x,
                       std::span<const LinearPart> parts, Write write) override {
    with_parts(parts, {&dx, &dy, &x}, [&](std::span<const LinearPart> there) {
      ops_->linear_backward(mirror_.there(dx), mirror_.there(dy), mirror_.there(x), there, write);
    });
  }
  void lora_norm(TensorView norm, const LinearPart& part) override {
    const MatrixView row(norm.data, norm.dtype, 1, norm.elements());
    with_parts({&part, 1}, {&row}, [&](std::span<const LinearPart> there) {
      ops_->lora_norm(mirror_.there(norm), there[0]);
    });
  }
  void rmsnorm(MatrixView y, MatrixView x, TensorView weight, float eps) override {
    call([&](auto... v) { ops_->rmsnorm(v..., eps); }, y, x, weight);
  }
  void rmsnorm_backward(MatrixView dx, MatrixView dy, MatrixView x, TensorView weight, float eps,
                        Write write) override {
    call([&](auto... v) { ops_->rmsnorm_backward(v..., eps, write); }, dx, dy, x, weight);
  }
  void layernorm(MatrixView y, MatrixView x, TensorView weight, TensorView bias,
                 float eps) override {
    call([&](auto... v) { ops_->layernorm(v..., eps); }, y, x, weight, bias);
  }
  void layernorm_backward(MatrixView dx, MatrixView dy, MatrixView x, TensorView weight, float eps,
                          Write write) override {
    call([&](auto... v) { ops_->layernorm_backward(v..., eps, write); }, dx, dy, x, weight);
  }
  void rope(MatrixView x, TensorView positions, TensorView table, int64_t head_size,
            bool inverse) override {
    call([&](auto... v) { ops_->rope(v..., head_size, inverse); }, x, positions, table);
  }
  void attention(MatrixView o, TensorView lse, MatrixView q, MatrixView k, MatrixView v,
                 TensorView sequences, const AttentionShape& shape) override {
    call([&](auto... a) { ops_->attention(a..., shape); }, o, lse, q, k, v, sequences);
  }
  void attention_backward(MatrixView dq, MatrixView dk, MatrixView dv, MatrixView d_o, MatrixView o,
                          TensorView lse, MatrixView q, MatrixView k, MatrixView v,
                          TensorView sequences, const AttentionShape& shape) override {
    call([&](auto... a) { ops_->attention_backward(a..., shape); }, dq, dk, dv, d_o, o, lse, q, k,
         v, sequences);
  }
  void swiglu(MatrixView y, MatrixView gate_up) override {
    call([&](auto... v) { ops_->swiglu(v...); }, y, gate_up);
  }
  void swiglu_backward(MatrixView d_gate_up, MatrixView dy, MatrixView gate_up) override {
    call([&](auto... v) { ops_->swiglu_backward(v...); }, d_gate_up, dy, gate_up);
  }
  void gelu(MatrixView y, MatrixView x) override {
    call([&](auto... v) { ops_->gelu(v...); }, y, x);
  }
  void gelu_backward(MatrixView dx, MatrixView dy, MatrixView x) override {
    call([&](auto... v) { ops_->gelu_backward(v...); }, dx, dy, x);
  }
  void add(MatrixView y, MatrixView a, MatrixView b) override {
    call([&](auto... v) { ops_->add(v...); }, y, a, b);
  }
  void embedding(MatrixView y, TensorView ids, TensorView table, Write write) override {
    call([&](auto... v) { ops_->embedding(v..., write); }, y, ids, table);
  }
  void embedding_backward(TensorView d_table, TensorView ids, MatrixView dy) override {
    call([&](auto... v) { ops_->embedding_backward(v...); }, d_table, ids, dy);
  }
  void scatter_rows(MatrixView y, MatrixView x, TensorView rows) override {
    call([&](auto... v) { ops_->scatter_rows(v...); }, y, x, rows);
  }
  void head_begin(const HeadState& state) override {
    with_state(state, [&](const HeadState& there) { ops_->head_begin(there); });
  }
  void head_chunk(const HeadState& state, MatrixView x, TensorView weight, int64_t v_begin,
                  TensorView targets) override {
    with_state(
        state,
        [&](const HeadState& there) {
          ops_->head_chunk(there, mirror_.there(x), mirror_.there(weight), v_begin,
                           mirror_.there(targets));
        },
        x, weight, targets);
  }
  void head_finish(TensorView loss, MatrixView dx, const HeadState& state,
                   float grad_scale) override {
    with_state(
        state,
        [&](const HeadState& there) {
          ops_->head_finish(mirror_.there(loss), mirror_.there(dx), there, grad_scale);
        },
        loss, dx);
  }
  void head_weight_backward(TensorView d_weight, const HeadState& state, MatrixView x,
                            TensorView weight, int64_t v_begin, TensorView targets,
                            float grad_scale) override {
    with_state(
        state,
        [&](const HeadState& there) {
          ops_->head_weight_backward(mirror_.there(d_weight), there, mirror_.there(x),
                                     mirror_.there(weight), v_begin, mirror_.there(targets),
                                     grad_scale);
        },
        d_weight, x, weight, targets);
  }
  void squared_norm(TensorView out, TensorView x) override {
    call([&](auto... v) { ops_->squared_norm(v...); }, out, x);
  }
  void adamw(TensorView param, TensorView grad, TensorView moment1, TensorView moment2,
             TensorView squared_norm, const AdamWStep& step) override {
    call([&](auto... v) { ops_->adamw(v..., step); }, param, grad, moment1, moment2, squared_norm);
  }
  void fill(TensorView x, float value) override {
    call([&](auto... v) { ops_->fill(v..., value); }, x);
  }

 private:
  // fn(views on the device).
  template <typename Fn, typename... Views>
  void call(const Fn& fn, const Views&... views) {
    mirror_.begin();
    (mirror_.add(views), ...);
    mirror_.upload();
    fn(mirror_.there(views)...);
    mirror_.download();
  }

  template <typename Fn, typename... Views>
  void with_state(const HeadState& state, const Fn& fn, const Views&... views) {
    call(
        [&](const TensorView& max, const TensorView& sum, const TensorView& target_logit,
            const TensorView& acc, const TensorView& target_rows, const auto&...) {
          fn(HeadState{max, sum, target_logit, acc, target_rows});
        },
        state.max, state.sum, state.target_logit, state.acc, state.target_rows, views...);
  }

  template <typename Fn>
  void with_parts(std::span<const LinearPart> parts, std::vector<const MatrixView*> matrices,
                  const Fn& fn) {
    mirror_.begin();
    for (const MatrixView* m : matrices) mirror_.add(*m);
    for (const LinearPart& part : parts) {
      for (const TensorView& t : {part.weight, part.bias}) mirror_.add(t);
      if (part.lora != nullptr)
        for (const TensorView& t : {part.lora->a, part.lora->b, part.lora->da, part.lora->db,
                                    part.lora->magnitude, part.lora->norm, part.lora->d_magnitude})
          mirror_.add(t);
    }
    mirror_.upload();
    std::vector<LinearPart> there(parts.begin(), parts.end());
    std::vector<LoraView> lora(parts.size());
    for (size_t p = 0; p < there.size(); ++p) {
      for (TensorView* t : {&there[p].weight, &there[p].bias}) *t = mirror_.there(*t);
      if (there[p].lora == nullptr) continue;
      lora[p] = *there[p].lora;
      for (TensorView* t : {&lora[p].a, &lora[p].b, &lora[p].da, &lora[p].db, &lora[p].magnitude,
                            &lora[p].norm, &lora[p].d_magnitude})
        *t = mirror_.there(*t);
      there[p].lora = &lora[p];
    }
    fn(there);
    mirror_.download();
  }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Ops> ops_;
  Mirror mirror_;
};

}  // namespace

std::unique_ptr<Device> make_test_device() { return make_cuda_device(0); }

std::unique_ptr<Ops> make_test_ops(int, const OpsLimits& limits) {
  return std::make_unique<MirroredOps>(limits);
}

bool tests_cpu() { return false; }

}  // namespace lema::test
