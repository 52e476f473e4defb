// Each method makes a KernelCall of its arguments.
#include "train/recording_ops.h"

#include <utility>

namespace lema {
namespace {

class RecordingOps final : public Ops {
 public:
  explicit RecordingOps(std::function<void(KernelCall)> note) : note_(std::move(note)) {}
  int64_t scratch_bytes() const override { return 0; }

  void linear(MatrixView y, MatrixView x, std::span<const LinearPart> parts, Write write) override {
    KernelCall call = matrix(Kernel::Linear, x);
    call.parts = shapes(parts);
    call.write = write;
    call.x_gap = gap(x);
    call.y_gap = gap(y);
    note_(std::move(call));
  }
  void linear_backward(MatrixView dx, MatrixView dy, MatrixView x,
                       std::span<const LinearPart> parts, Write write) override {
    KernelCall call = matrix(Kernel::LinearBackward, x);
    call.parts = shapes(parts);
    call.gradient = static_cast<bool>(dx);
    call.write = write;
    call.x_gap = gap(x);
    call.y_gap = gap(dy);
    if (dx) call.dx_gap = gap(dx);
    note_(std::move(call));
  }
  void lora_norm(TensorView, const LinearPart& part) override {
    KernelCall call{Kernel::LoraNorm, DType::F32, 1, part.in()};
    call.parts = shapes({&part, 1});
    note_(std::move(call));
  }
  void rmsnorm(MatrixView y, MatrixView x, TensorView weight, float) override {
    norm(Kernel::RmsNorm, x, y, {}, weight, Write::Overwrite);
  }
  void rmsnorm_backward(MatrixView dx, MatrixView dy, MatrixView x, TensorView weight, float,
                        Write write) override {
    norm(Kernel::RmsNormBackward, x, dy, dx, weight, write);
  }
  void layernorm(MatrixView y, MatrixView x, TensorView weight, TensorView, float) override {
    norm(Kernel::LayerNorm, x, y, {}, weight, Write::Overwrite);
  }
  void layernorm_backward(MatrixView dx, MatrixView dy, MatrixView x, TensorView weight, float,
                          Write write) override {
    norm(Kernel::LayerNormBackward, x, dy, dx, weight, write);
  }
  void rope(MatrixView x, TensorView, TensorView table, int64_t head_size, bool) override {
    KernelCall call = matrix(Kernel::Rope, x);
    call.inner = head_size;
    call.parts = {{table.shape[1]}};
    call.x_gap = gap(x);
    note_(std::move(call));
  }
  void attention(MatrixView o, TensorView, MatrixView, MatrixView, MatrixView, TensorView sequences,
                 const AttentionShape& shape) override {
    attention(Kernel::Attention, o, sequences, shape);
  }
  void attention_backward(MatrixView dq, MatrixView, MatrixView, MatrixView, MatrixView, TensorView,
                          MatrixView, MatrixView, MatrixView, TensorView sequences,
                          const AttentionShape& shape) override {
    attention(Kernel::AttentionBackward, dq, sequences, shape);
  }
  void swiglu(MatrixView y, MatrixView) override { note_(matrix(Kernel::Swiglu, y)); }
  void swiglu_backward(MatrixView, MatrixView dy, MatrixView) override {
    note_(matrix(Kernel::SwigluBackward, dy));
  }
  void gelu(MatrixView y, MatrixView) override { note_(matrix(Kernel::Gelu, y)); }
  void gelu_backward(MatrixView dx, MatrixView, MatrixView) override {
    note_(matrix(Kernel::GeluBackward, dx));
  }
  void add(MatrixView y, MatrixView, MatrixView) override {
    note_(matrix(Kernel::Add, y));
  }
  void embedding(MatrixView y, TensorView, TensorView table, Write write) override {
    KernelCall call = matrix(Kernel::Embedding, y);
    call.weight = table.dtype;
    call.write = write;
    call.y_gap = gap(y);
    call.table_offset = static_cast<int64_t>(reinterpret_cast<uintptr_t>(table.data) % 16);
    note_(std::move(call));
  }
  void embedding_backward(TensorView, TensorView, MatrixView dy) override {
    note_(matrix(Kernel::EmbeddingBackward, dy));
  }
  void scatter_rows(MatrixView, MatrixView x, TensorView) override {
    note_(matrix(Kernel::ScatterRows, x));
  }
  void head_begin(const HeadState& state) override {
    KernelCall call{Kernel::HeadBegin, DType::F32, state.max.shape[0]};
    if (state.acc) call.cols = state.acc.shape[1];
    if (state.acc) call.X = state.target_rows.dtype;
    call.gradient = static_cast<bool>(state.acc);
    note_(std::move(call));
  }
  void head_chunk(const HeadState& state, MatrixView x, TensorView weight, int64_t,
                  TensorView) override {
    head(Kernel::HeadChunk, x, weight, static_cast<bool>(state.acc));
  }
  void head_finish(TensorView loss, MatrixView dx, const HeadState&, float) override {
    KernelCall call{Kernel::HeadFinish, dx ? dx.dtype : DType::F32, loss.shape[0], dx.cols};
    call.gradient = static_cast<bool>(dx);
    note_(std::move(call));
  }
  void head_weight_backward(TensorView d_weight, const HeadState&, MatrixView x, TensorView weight,
                            int64_t, TensorView, float) override {
    head(Kernel::HeadWeightBackward, x, weight, true, {{d_weight.shape[1]}});
  }
  void squared_norm(TensorView, TensorView x) override { flat(Kernel::SquaredNorm, x); }
  void adamw(TensorView param, TensorView, TensorView, TensorView, TensorView,
             const AdamWStep&) override {
    flat(Kernel::AdamW, param);
  }
  void fill(TensorView x, float) override { flat(Kernel::Fill, x); }

 private:
  static KernelCall matrix(Kernel kernel, const MatrixView& m) {
    return {kernel, m.dtype, m.rows, m.cols};
  }
  static int64_t gap(const MatrixView& m) { return m.stride - m.cols; }
  static std::vector<PartShape> shapes(std::span<const LinearPart> parts) {
    std::vector<PartShape> list;
    for (size_t p = 0; p < parts.size(); ++p) {
      const LinearPart& part = parts[p];
      PartShape shape{part.out(), part.weight.dtype, part.transposed};
      if (part.bias) shape.bias = part.bias.dtype;
      if (part.lora != nullptr) {
        shape.rank = part.lora->a.shape[0];
        shape.dropout = part.lora->dropout > 0;
        shape.magnitude = static_cast<bool>(part.lora->magnitude);
      }
      shape.joined = p > 0 && lie_together(parts[p - 1], part);
      list.push_back(shape);
    }
    return list;
  }
  void norm(Kernel kernel, const MatrixView& x, const MatrixView& y, const MatrixView& dx,
            const TensorView& weight, Write write) {
    KernelCall call = matrix(kernel, x);
    call.write = write;
    call.x_gap = gap(x);
    call.y_gap = gap(y);
    if (dx) call.dx_gap = gap(dx);
    call.inner = weight.shape[0];
    call.weight = weight.dtype;
    note_(std::move(call));
  }
  void attention(Kernel kernel, const MatrixView& o, const TensorView& sequences,
                 const AttentionShape& shape) {
    KernelCall call = matrix(kernel, o);
    call.inner = sequences.shape[0];
    call.heads = shape;
    note_(std::move(call));
  }
  void head(Kernel kernel, const MatrixView& x, const TensorView& weight, bool gradient,
            std::vector<PartShape> parts = {}) {
    KernelCall call = matrix(kernel, x);
    call.parts = std::move(parts);
    call.inner = weight.shape[0];
    call.weight = weight.dtype;
    call.gradient = gradient;
    note_(std::move(call));
  }
  void flat(Kernel kernel, const TensorView& x) {
    note_({kernel, x.dtype, x.elements(), 1});
  }

  std::function<void(KernelCall)> note_;
};

}  // namespace

std::unique_ptr<Ops> make_recording_ops(std::function<void(KernelCall)> note) {
  return std::make_unique<RecordingOps>(std::move(note));
}

}  // namespace lema
